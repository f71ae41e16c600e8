"""Proofs that a run is exact: killed and resumed, run again, or one step of it taken apart.

Each starts real processes, compares what they leave, and claims no more than it saw.
"""
