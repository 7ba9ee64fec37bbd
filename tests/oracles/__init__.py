"""Mixed models fitted by brute force and by lme4, to compare estimates with."""
