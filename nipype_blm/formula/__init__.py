"""Formulas: of a table of covariates make X, random factors and contrasts."""
