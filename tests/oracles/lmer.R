# Fits linear mixed models with lme4 and tests contrasts with lmerTest.
#
# Rscript --vanilla lmer.R
#
# Loading lme4 takes longer than most fits: one process serves all.  It reads two lines for each job,
# the paths of its input and output, and answers "done:" or "failed:" and why.  Both files are
# streams of 8-byte numbers; lmer.py writes the one and reads the other.

suppressPackageStartupMessages({
    library(lme4)
    library(lmerTest)
})

take <- function(n = 1) {
    values <- readBin(input, "double", n)
    if (length(values) != n) stop("the input ends too early")
    values
}
take_matrix <- function(n_rows, n_columns) matrix(take(n_rows * n_columns), n_rows, n_columns)
give <- function(...) writeBin(as.double(c(...)), output)

# Small designs are wanted here; X must not lose a column in silence.
control <- lmerControl(
    check.nobs.vs.rankZ = "ignore", check.nobs.vs.nlev = "ignore",
    check.nlev.gtreq.5 = "ignore", check.nlev.gtr.1 = "ignore", check.nobs.vs.nRE = "ignore",
    check.scaleX = "ignore", check.rankX = "stop.deficient"
)

read_factor <- function(n_obs) {
    n_effects <- take()
    list(n_effects = n_effects, correlated = take() == 1, level = take(n_obs),
         Z = take_matrix(n_obs, n_effects))
}

# 0 rows: a vector, tested by t; otherwise a matrix, tested by F.
read_contrast <- function(n_params) {
    n_rows <- take()
    if (n_rows == 0) take(n_params) else take_matrix(n_rows, n_params)
}

read_design <- function() {
    n_obs <- take()
    n_params <- take()
    X <- take_matrix(n_obs, n_params)
    factors <- lapply(seq_len(take()), function(k) read_factor(n_obs))
    contrasts <- lapply(seq_len(take()), function(i) read_contrast(n_params))
    colnames(X) <- paste0("x", seq_len(n_params))
    data <- data.frame(y = 0, X)
    terms <- paste(c("0", colnames(X)), collapse = " + ")
    for (k in seq_along(factors)) {
        f <- factors[[k]]
        effects <- paste0("z", k, "_", seq_len(f$n_effects))
        colnames(f$Z) <- effects
        group <- paste0("f", k)
        data <- cbind(data, f$Z)
        data[[group]] <- f$level
        parts <- if (f$correlated) paste(effects, collapse = " + ") else effects
        terms <- paste(c(terms, paste0("(0 + ", parts, " | ", group, ")")), collapse = " + ")
    }
    list(data = data, formula = as.formula(paste("y ~", terms)), factors = factors,
         contrasts = contrasts, parsed = new.env())
}

# lme4 sorts terms by their numbers of levels, so that terms are known by the names of effects.
# Gives, for each entry of theta, the factor, row and column of the root of D it is.
locate_theta <- function(names_of_terms) {
    rows <- lapply(names_of_terms, function(effects) {
        number <- do.call(rbind, strsplit(sub("z", "", effects), "_"))
        k <- as.integer(number[1, 1])
        effect <- as.integer(number[, 2])
        lower <- which(lower.tri(diag(length(effect)), diag = TRUE), arr.ind = TRUE)
        cbind(k, effect[lower[, 1]], effect[lower[, 2]])
    })
    do.call(rbind, rows)
}

# The formula is evaluated once for each pattern of missing observations.
parse_design <- function(design, present, reml) {
    key <- paste0(reml, paste(which(!present), collapse = ","))
    if (is.null(design$parsed[[key]])) {
        parsed <- lFormula(design$formula, droplevels_of(design, present), REML = reml,
                           control = control)
        # The compiled code writes into theta: a copy stays as it is.
        parsed$start <- parsed$reTrms$theta + 0
        parsed$place <- locate_theta(parsed$reTrms$cnms)
        design$parsed[[key]] <- parsed
    }
    design$parsed[[key]]
}

droplevels_of <- function(design, present) {
    data <- design$data[present, , drop = FALSE]
    for (k in seq_along(design$factors)) {
        group <- paste0("f", k)
        data[[group]] <- factor(data[[group]])
    }
    data
}

make_roots <- function(design, parsed, theta) {
    roots <- lapply(design$factors, function(f) matrix(0, f$n_effects, f$n_effects))
    for (i in seq_along(theta)) {
        place <- parsed$place[i, ]
        roots[[place[1]]][place[2], place[3]] <- theta[i]
    }
    roots
}

make_theta <- function(parsed, roots) {
    apply(parsed$place, 1, function(place) roots[[place[1]]][place[2], place[3]])
}

# lme4's default optimiser with tighter tolerances, then bobyqa from where that ended.
#
# lme4 keeps the diagonal of the roots >= 0.  The signs of a column of a root make no difference,
# so that a way down may lead through negative values: the search may then stop at 0 where no
# optimum is.  It is taken up from there without bounds, as long as that helps.
optimise <- function(devfun, start, place) {
    best <- optimizeLmer(
        devfun, optimizer = "nloptwrap", start = start, restart_edge = TRUE, boundary.tol = 1e-5,
        control = list(xtol_abs = 1e-10, ftol_abs = 1e-12, maxeval = 10000), calc.derivs = FALSE
    )
    best <- better(polish(devfun, best$par), best)
    bounds <- environment(devfun)$lower
    while (any(best$par[bounds == 0] == 0)) {
        environment(devfun)$lower <- rep(-Inf, length(bounds))
        free <- polish(devfun, best$par, rhobeg = 0.1)
        environment(devfun)$lower <- bounds
        next_best <- polish(devfun, flip_columns(free$par, place))
        if (next_best$fval > best$fval - 1e-9) break
        best <- next_best
    }
    best
}

polish <- function(devfun, start, rhobeg = 1e-3) {
    optimizeLmer(
        devfun, optimizer = "bobyqa", start = start, restart_edge = FALSE, boundary.tol = 1e-5,
        control = list(rhobeg = rhobeg, rhoend = 1e-9, maxfun = 10000), calc.derivs = FALSE
    )
}

better <- function(a, b) if (a$fval < b$fval) a else b

# Make the diagonal of the roots non-negative.
flip_columns <- function(theta, place) {
    column <- paste(place[, 1], place[, 3])
    on_diagonal <- place[, 2] == place[, 3]
    negative <- column[on_diagonal & theta < 0]
    ifelse(column %in% negative, -theta, theta)
}

# Deviance, sigma2, beta and its covariance at theta, from lme4's own evaluation.
give_evaluation <- function(devfun, theta, reml) {
    deviance <- devfun(theta)
    pp <- environment(devfun)$pp
    resp <- environment(devfun)$resp
    dof <- nrow(pp$V) - if (reml) ncol(pp$V) else 0
    sigma2 <- (resp$wrss() + pp$sqrL(1)) / dof
    give(deviance, sigma2, pp$beta(1), sigma2 * tcrossprod(pp$RXi()))
}

give_tests <- function(model, contrasts) {
    for (contrast in contrasts) {
        if (is.matrix(contrast)) {
            test <- contestMD(model, contrast)
            give(test[["F value"]], test[["NumDF"]], test[["DenDF"]])
        } else {
            test <- contest1D(model, contrast)
            give(test[["t value"]], 1, test[["df"]])
        }
    }
}

fit_case <- function(design) {
    reml <- take() == 1
    has_D <- take() == 1
    y <- take(nrow(design$data))
    roots <- if (has_D) lapply(design$factors, function(f) take_matrix(f$n_effects, f$n_effects))
    present <- !is.na(y)
    parsed <- parse_design(design, present, reml)
    fr <- parsed$fr
    fr$y <- y[present]
    devfun <- mkLmerDevfun(fr, parsed$X, parsed$reTrms, REML = reml, control = control)
    n_warnings <- 0
    count <- function(condition) {
        n_warnings <<- n_warnings + 1
        invokeRestart("muffleWarning")
    }
    optimum <- withCallingHandlers(optimise(devfun, parsed$start, parsed$place), warning = count)
    give_evaluation(devfun, optimum$par, reml)  # leaves devfun at the optimum, as mkMerMod needs
    model <- mkMerMod(environment(devfun), optimum, parsed$reTrms, fr)
    give(unlist(make_roots(design, parsed, optimum$par)), isSingular(model))
    if (has_D) give_evaluation(devfun, make_theta(parsed, roots), reml)
    if (length(design$contrasts) > 0) {
        devfun(optimum$par)
        tested <- withCallingHandlers(lmerTest:::as_lmerModLT(model, devfun), warning = count)
        give_tests(tested, design$contrasts)
    }
    give(n_warnings)
}

fit_all <- function(paths) {
    input <<- file(paths[1], "rb")
    output <<- file(paths[2], "wb")
    on.exit({
        close(input)
        close(output)
    })
    for (i in seq_len(take())) {
        design <- read_design()
        for (case in seq_len(take())) fit_case(design)
    }
}

jobs <- file("stdin", "r")
while (length(paths <- readLines(jobs, 2)) == 2) {
    answer <- tryCatch({
        fit_all(paths)
        "done:"
    }, error = function(problem) paste("failed:", conditionMessage(problem)))
    cat(gsub("[\r\n]+", " ", answer), "\n", sep = "")
    flush(stdout())
}
