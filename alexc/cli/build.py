def build() -> None:
    """later"""
