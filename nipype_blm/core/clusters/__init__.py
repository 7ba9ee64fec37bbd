"""Summaries of maps of statistics: clusters, TFCE, corrected p-values, tables of peaks."""
