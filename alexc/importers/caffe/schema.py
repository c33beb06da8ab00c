"""The messages of Caffe that an importer reads, as tables: see `alexc.importers.proto`.

Names and numbers are those of BVLC's caffe.proto, which every fork keeps. Layers that the spec
language can't express have no parameters here: their type is enough to refuse them.
"""

from __future__ import annotations

from alexc.importers.proto import Schemas

# The types of the old syntax, and what the new one calls them.
OLD_TYPES = {
    "ABSVAL": ("AbsVal", 35), "ACCURACY": ("Accuracy", 1), "ARGMAX": ("ArgMax", 30),
    "BNLL": ("BNLL", 2), "CONCAT": ("Concat", 3), "CONTRASTIVE_LOSS": ("ContrastiveLoss", 37),
    "CONVOLUTION": ("Convolution", 4), "DATA": ("Data", 5),
    "DECONVOLUTION": ("Deconvolution", 39), "DROPOUT": ("Dropout", 6),
    "DUMMY_DATA": ("DummyData", 32), "EUCLIDEAN_LOSS": ("EuclideanLoss", 7),
    "ELTWISE": ("Eltwise", 25), "EXP": ("Exp", 38), "FLATTEN": ("Flatten", 8),
    "HDF5_DATA": ("HDF5Data", 9), "HDF5_OUTPUT": ("HDF5Output", 10),
    "HINGE_LOSS": ("HingeLoss", 28), "IM2COL": ("Im2col", 11), "IMAGE_DATA": ("ImageData", 12),
    "INFOGAIN_LOSS": ("InfogainLoss", 13), "INNER_PRODUCT": ("InnerProduct", 14),
    "LRN": ("LRN", 15), "MEMORY_DATA": ("MemoryData", 29),
    "MULTINOMIAL_LOGISTIC_LOSS": ("MultinomialLogisticLoss", 16), "MVN": ("MVN", 34),
    "POOLING": ("Pooling", 17), "POWER": ("Power", 26), "RELU": ("ReLU", 18),
    "SIGMOID": ("Sigmoid", 19), "SIGMOID_CROSS_ENTROPY_LOSS": ("SigmoidCrossEntropyLoss", 27),
    "SILENCE": ("Silence", 36), "SOFTMAX": ("Softmax", 20), "SOFTMAX_LOSS": ("SoftmaxWithLoss", 21),
    "SPLIT": ("Split", 22), "SLICE": ("Slice", 33), "TANH": ("TanH", 23),
    "WINDOW_DATA": ("WindowData", 24), "THRESHOLD": ("Threshold", 31),
}  # fmt: skip

_ENUMS = {
    "OldType": {"NONE": 0} | {name: number for name, (_, number) in OLD_TYPES.items()},
    "Phase": {"TRAIN": 0, "TEST": 1},
    "Pool": {"MAX": 0, "AVE": 1, "STOCHASTIC": 2},
    "RoundMode": {"CEIL": 0, "FLOOR": 1},
    "Region": {"ACROSS_CHANNELS": 0, "WITHIN_CHANNEL": 1},
    "EltwiseOp": {"PROD": 0, "SUM": 1, "MAX": 2},
    "VarianceNorm": {"FAN_IN": 0, "FAN_OUT": 1, "AVERAGE": 2},
    "Engine": {"DEFAULT": 0, "CAFFE": 1, "CUDNN": 2},
    "Check": {"STRICT": 0, "PERMISSIVE": 1},
    "Backend": {"LEVELDB": 0, "LMDB": 1},
    "SolverMode": {"CPU": 0, "GPU": 1},
    "SolverType": {"SGD": 0, "NESTEROV": 1, "ADAGRAD": 2, "RMSPROP": 3, "ADADELTA": 4, "ADAM": 5},
    "SnapshotFormat": {"HDF5": 0, "BINARYPROTO": 1},
}

_NET = """
    name=1:string layers=2:OldLayer* input=3:string* input_dim=4:int* force_backward=5:bool
    state=6:NetState debug_info=7:bool input_shape=8:BlobShape* layer=100:Layer*
"""
_SOLVER = """
    net=24:string net_param=25:Net train_net=1:string test_net=2:string* train_net_param=21:Net
    test_net_param=22:Net* train_state=26:NetState test_state=27:NetState* test_iter=3:int*
    test_interval=4:int test_compute_loss=19:bool test_initialization=32:bool base_lr=5:float
    display=6:int average_loss=33:int max_iter=7:int iter_size=36:int lr_policy=8:string
    gamma=9:float power=10:float momentum=11:float weight_decay=12:float
    regularization_type=29:string stepsize=13:int stepvalue=34:int* clip_gradients=35:float
    snapshot=14:int snapshot_prefix=15:string snapshot_diff=16:bool
    snapshot_format=37:SnapshotFormat solver_mode=17:SolverMode device_id=18:int random_seed=20:int
    type=40:string delta=31:float momentum2=39:float rms_decay=38:float
    snapshot_after_train=28:bool solver_type=30:SolverType layer_wise_reduce=41:bool
    weights=42:string*
"""
_FILTERS = """
    pad=3:int* kernel_size=4:int* stride=6:int* dilation=18:int* pad_h=9:int pad_w=10:int
    kernel_h=11:int kernel_w=12:int stride_h=13:int stride_w=14:int
"""

SCHEMAS = Schemas(
    f"""
    Net {" ".join(_NET.split())}
    Solver {" ".join(_SOLVER.split())}
    # A prototxt doesn't say which of the two it holds; no field is in both with two meanings.
    File {" ".join(_SOLVER.split())} {" ".join(_NET.split())}

    BlobShape dim=1:int*
    Blob shape=7:BlobShape data=5:float* diff=6:float* double_data=8:double* double_diff=9:double*
    Blob num=1:int channels=2:int height=3:int width=4:int
    NetState phase=1:Phase level=2:int stage=3:string*
    Rule phase=1:Phase min_level=2:int max_level=3:int stage=4:string* not_stage=5:string*
    ParamSpec name=1:string share_mode=2:Check lr_mult=3:float decay_mult=4:float
    Filler type=1:string value=2:float min=3:float max=4:float mean=5:float std=6:float
    Filler sparse=7:int variance_norm=8:VarianceNorm

    Layer name=1:string type=2:string bottom=3:string* top=4:string* phase=10:Phase
    Layer loss_weight=5:float* param=6:ParamSpec* blobs=7:Blob* propagate_down=11:bool*
    Layer include=8:Rule* exclude=9:Rule* transform_param=100:Transform loss_param=101:Ignored
    Layer accuracy_param=102:Ignored concat_param=104:Concat convolution_param=106:Convolution
    Layer data_param=107:Data dropout_param=108:Dropout dummy_data_param=109:DummyData
    Layer eltwise_param=110:Eltwise hdf5_data_param=112:Data5 hinge_loss_param=114:Ignored
    Layer image_data_param=115:Data infogain_loss_param=116:Ignored
    Layer inner_product_param=117:InnerProduct lrn_param=118:LRN memory_data_param=119:MemoryData
    Layer pooling_param=121:Pooling power_param=122:Power relu_param=123:ReLU
    Layer sigmoid_param=124:OnlyEngine softmax_param=125:Softmax tanh_param=127:OnlyEngine
    Layer window_data_param=129:Data reshape_param=133:Reshape flatten_param=135:Flatten
    Layer batch_norm_param=139:BatchNorm scale_param=142:Scale input_param=143:Input

    OldLayer layer=1:Ignored bottom=2:string* top=3:string* name=4:string include=32:Rule*
    OldLayer exclude=33:Rule* type=5:OldType blobs=6:Blob* param=1001:string*
    OldLayer blob_share_mode=1002:Check* blobs_lr=7:float* weight_decay=8:float*
    OldLayer loss_weight=35:float* accuracy_param=27:Ignored concat_param=9:Concat
    OldLayer convolution_param=10:Convolution data_param=11:Data dropout_param=12:Dropout
    OldLayer dummy_data_param=26:DummyData eltwise_param=24:Eltwise hdf5_data_param=13:Data5
    OldLayer hinge_loss_param=29:Ignored image_data_param=15:Data infogain_loss_param=16:Ignored
    OldLayer inner_product_param=17:InnerProduct lrn_param=18:LRN memory_data_param=22:MemoryData
    OldLayer pooling_param=19:Pooling power_param=21:Power relu_param=30:ReLU
    OldLayer sigmoid_param=38:OnlyEngine softmax_param=39:Softmax tanh_param=37:OnlyEngine
    OldLayer window_data_param=20:Data transform_param=36:Transform loss_param=42:Ignored

    Transform scale=1:float mirror=2:bool crop_size=3:int mean_file=4:string mean_value=5:float*
    Transform force_color=6:bool force_gray=7:bool
    Data source=1:string batch_size=4:int scale=2:float mean_file=3:string crop_size=5:int
    Data mirror=6:bool new_height=9:int new_width=10:int is_color=11:bool backend=8:Backend
    Data5 source=1:string batch_size=2:int shuffle=3:bool
    MemoryData batch_size=1:int channels=2:int height=3:int width=4:int
    DummyData data_filler=1:Filler* shape=6:BlobShape* num=2:int* channels=3:int* height=4:int*
    DummyData width=5:int*
    Input shape=1:BlobShape*

    Convolution num_output=1:int bias_term=2:bool {" ".join(_FILTERS.split())} group=5:int
    Convolution weight_filler=7:Filler bias_filler=8:Filler engine=15:Engine axis=16:int
    Convolution force_nd_im2col=17:bool
    Pooling pool=1:Pool pad=4:int pad_h=9:int pad_w=10:int kernel_size=2:int kernel_h=5:int
    Pooling kernel_w=6:int stride=3:int stride_h=7:int stride_w=8:int engine=11:Engine
    Pooling global_pooling=12:bool round_mode=13:RoundMode
    LRN local_size=1:int alpha=2:float beta=3:float norm_region=4:Region k=5:float engine=6:Engine
    InnerProduct num_output=1:int bias_term=2:bool weight_filler=3:Filler bias_filler=4:Filler
    InnerProduct axis=5:int transpose=6:bool
    BatchNorm use_global_stats=1:bool moving_average_fraction=2:float eps=3:float
    Scale axis=1:int num_axes=2:int filler=3:Filler bias_term=4:bool bias_filler=5:Filler
    Concat axis=2:int concat_dim=1:int
    Eltwise operation=1:EltwiseOp coeff=2:float* stable_prod_grad=3:bool
    Dropout dropout_ratio=1:float
    Power power=1:float scale=2:float shift=3:float
    ReLU negative_slope=1:float engine=2:Engine
    Softmax engine=1:Engine axis=2:int
    OnlyEngine engine=1:Engine
    Reshape shape=1:BlobShape axis=2:int num_axes=3:int
    Flatten axis=1:int end_axis=2:int
    Ignored
    """,
    _ENUMS,
)
