"""Papers to be cited, by their keys, as BibTeX."""

from collections.abc import Iterable, Mapping

from nipype_blm import __version__

_ARTICLES = {
    "blmm": (
        "BLMM: Parallelised computing for big linear mixed models",
        *("Maullin-Sapey, Thomas and Nichols, Thomas E.", "NeuroImage", 264, "119729", 2022),
        "10.1016/j.neuroimage.2022.119729",
    ),
    "fisher": (
        "Fisher scoring for crossed factor linear mixed models",
        "Maullin-Sapey, Thomas and Nichols, Thomas E.",
        *("Statistics and Computing", 31, "53", 2021, "10.1007/s11222-021-10026-6"),
    ),
    "lmertest": (
        "{lmerTest} package: tests in linear mixed effects models",
        "Kuznetsova, Alexandra and Brockhoff, Per B. and Christensen, Rune H. B.",
        *("Journal of Statistical Software", 82, "1--26", 2017, "10.18637/jss.v082.i13"),
    ),
    "fdr": (
        "Controlling the false discovery rate: a practical and powerful approach to multiple "
        "testing",
        *("Benjamini, Yoav and Hochberg, Yosef", "Journal of the Royal Statistical Society B"),
        *(57, "289--300", 1995, "10.1111/j.2517-6161.1995.tb02031.x"),
    ),
    "flips": (
        "Robust testing in generalized linear models by sign flipping score contributions",
        "Hemerik, Jesse and Goeman, Jelle J. and Finos, Livio",
        *("Journal of the Royal Statistical Society B", 82, "841--864", 2020),
        "10.1111/rssb.12369",
    ),
    "permutation": (
        "A nonstochastic interpretation of reported significance levels",
        *("Freedman, David and Lane, David", "Journal of Business and Economic Statistics"),
        *(1, "292--298", 1983, "10.1080/07350015.1983.10509354"),
    ),
    "tail": (
        "Faster permutation inference in brain imaging",
        "Winkler, Anderson M. and Ridgway, Ged R. and Douaud, Gwenaelle and Nichols, Thomas E. "
        "and Smith, Stephen M.",
        *("NeuroImage", 141, "502--516", 2016, "10.1016/j.neuroimage.2016.05.068"),
    ),
    "tfce": (
        "Threshold-free cluster enhancement",
        "Smith, Stephen M. and Nichols, Thomas E.",
        *("NeuroImage", 44, "83--98", 2009, "10.1016/j.neuroimage.2008.03.061"),
    ),
    "nipype": (
        "Nipype: a flexible, lightweight and extensible neuroimaging data processing framework in "
        "Python",
        "Gorgolewski, Krzysztof and Burns, Christopher D. and Madison, Cindee and Clark, Dav and "
        "Halchenko, Yaroslav O. and Waskom, Michael L. and Ghosh, Satrajit S.",
        *("Frontiers in Neuroinformatics", 5, "13", 2011, "10.3389/fninf.2011.00013"),
    ),
    "nilearn": (
        "Machine learning for neuroimaging with scikit-learn",
        "Abraham, Alexandre and Pedregosa, Fabian and Eickenberg, Michael and Gervais, Philippe "
        "and Mueller, Andreas and Kossaifi, Jean and Gramfort, Alexandre and Thirion, Bertrand and "
        "Varoquaux, Gael",
        *("Frontiers in Neuroinformatics", 8, "14", 2014, "10.3389/fninf.2014.00014"),
    ),
}
_SOFTWARE = {
    "blm": (
        *("BLM: the Big Linear Models toolbox", "Maullin-Sapey, Thomas and Nichols, Thomas E."),
        "https://github.com/TomMaullin/BLM",
    ),
    "nipype_blm": (
        f"nipype_blm: big linear and linear mixed models of neuroimages, version {__version__}",
        *("{The authors of nipype_blm}", ""),
    ),
}


def format_bibtex(keys: Iterable[str]) -> str:
    """Return entries of BibTeX, one for each key."""
    return "\n\n".join(_format(key) for key in keys)


def _format(key: str) -> str:
    if key in _SOFTWARE:
        title, author, url = _SOFTWARE[key]
        fields = {"title": title, "author": author, "url": url}
        return _join("misc", key, fields)
    names = "title", "author", "journal", "volume", "pages", "year", "doi"
    return _join("article", key, dict(zip(names, _ARTICLES[key], strict=True)))


def _join(kind: str, key: str, fields: Mapping[str, object]) -> str:
    lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{key},", ",\n".join(lines), "}"])
