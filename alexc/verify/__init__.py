"""The proof: every backend against the independent float64 reference, layer by layer."""

from alexc.verify.crosscheck import verify
from alexc.verify.report import Report

__all__ = ["Report", "verify"]
