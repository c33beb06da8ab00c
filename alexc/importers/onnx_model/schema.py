"""The messages of ONNX that an importer reads, as tables: see `alexc.importers.proto`.

Names and numbers are those of onnx.proto, which never change. A graph within an attribute is kept
as bytes, so that no file can nest messages without end.
"""

from __future__ import annotations

from alexc.importers.proto import Schemas

SCHEMAS = Schemas(
    """
    Model ir_version=1:int producer_name=2:string producer_version=3:string graph=7:Graph
    Model opset_import=8:OperatorSet*
    OperatorSet domain=1:string version=2:int
    Graph node=1:Node* name=2:string initializer=5:Tensor* input=11:ValueInfo* output=12:ValueInfo*
    Graph sparse_initializer=15:Sparse*
    Node input=1:string* output=2:string* name=3:string op_type=4:string attribute=5:Attribute*
    Node domain=7:string
    Attribute name=1:string f=2:float i=3:int s=4:bytes t=5:Tensor g=6:bytes floats=7:float*
    Attribute ints=8:int* type=20:int
    Tensor dims=1:int* data_type=2:int float_data=4:float* int32_data=5:int* int64_data=7:int*
    Tensor name=8:string raw_data=9:bytes double_data=10:double* uint64_data=11:int*
    Tensor external_data=13:Entry* data_location=14:int
    Sparse values=1:Tensor
    Entry key=1:string value=2:string
    ValueInfo name=1:string type=2:Type
    Type tensor_type=1:TensorType
    TensorType elem_type=1:int shape=2:Shape
    Shape dim=1:Dimension*
    Dimension dim_value=1:int dim_param=2:string
    """,
    {},
)
