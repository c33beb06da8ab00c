def verify() -> None:
    """later"""
