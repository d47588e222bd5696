"""Patches → predictors × views → stitched maps, for arrays of any rank. No slides, no Keras."""
