# Fit a model to many voxels with lme4: Rscript --vanilla run_lme4.R FOLDER FORMULA
#
# FOLDER holds Y.bin (8-byte numbers, voxel by voxel) and data.csv with all else; out.csv gets
# the version, then for ML and REML the milliseconds per voxel and the deviance of each voxel.
#
# ML by refit().  After REML, refit() of lme4 1.1.31 takes one column of X from the degrees of
# freedom instead of all (mkRespMod gets REML = isREML(object)), so that its optimum is another:
# REML by what lmer() itself calls, the formula and the random effects set up once.

suppressPackageStartupMessages(library(lme4))
arguments <- commandArgs(trailingOnly = TRUE)
setwd(arguments[1])
data <- read.csv("data.csv")
for (name in intersect(c("subject", "site"), names(data))) data[[name]] <- factor(data[[name]])
Y <- readBin("Y.bin", "double", file.size("Y.bin") / 8)
Y <- matrix(Y, nrow = nrow(data))
data$y <- Y[, 1]
formula <- as.formula(arguments[2])
# The derivatives at the end serve its convergence checks only.
control <- lmerControl(calc.derivs = FALSE, check.conv.singular = "ignore")

by_ml <- lmer(formula, data, REML = FALSE, control = control)
fit_ml <- function(y) -2 * as.numeric(logLik(refit(by_ml, y, control = control)))

parsed <- lFormula(formula, data, REML = TRUE, control = control)
start <- parsed$reTrms$theta + 0  # a copy: the compiled code writes into theta
fit_reml <- function(y) {
    parsed$fr$y <- y
    deviance <- do.call(mkLmerDevfun, parsed)
    optimizeLmer(deviance, start = start + 0, calc.derivs = FALSE)$fval
}

out <- as.character(packageVersion("lme4"))
for (fit in list(fit_ml, fit_reml)) {
    fit(Y[, 1])
    began <- proc.time()
    deviances <- apply(Y, 2, fit)
    used <- sum((proc.time() - began)[c("user.self", "sys.self")])
    out <- c(out, format(c(1000 * used / ncol(Y), deviances), digits = 17))
}
writeLines(out, "out.csv")
