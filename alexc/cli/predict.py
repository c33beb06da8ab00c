def predict() -> None:
    """later"""
