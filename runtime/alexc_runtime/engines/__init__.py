"""What runs a bundle: one file per engine, each with the class that `base.Engine` describes."""
