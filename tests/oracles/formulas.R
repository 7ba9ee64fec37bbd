# What R, lme4 and emmeans make of formulas.
#
# Rscript --vanilla formulas.R CASES OUTPUT
#
# CASES is R code that formulas.py writes: it makes data frames, and calls the functions below.
# Each writes one record: lines of its names, separated by tabs, and of its numbers.

suppressPackageStartupMessages({
    library(splines)
    library(lme4)
    library(emmeans)
})

arguments <- commandArgs(trailingOnly = TRUE)
output <- file(arguments[2], "w")

give_text <- function(texts) writeLines(paste(texts, collapse = "\t"), output)
give_numbers <- function(numbers) give_text(sprintf("%.17g", as.double(numbers)))
give_matrix <- function(matrix) {
    give_text(colnames(matrix))
    give_numbers(matrix)
}

give_fixed <- function(formula, data) give_matrix(model.matrix(formula, data))

# For each random term: its grouping, its effects, the label of each row and its part of Z.
give_random <- function(formula, data) {
    control <- lmerControl(
        check.nobs.vs.rankZ = "ignore", check.nobs.vs.nlev = "ignore",
        check.nlev.gtreq.5 = "ignore", check.nlev.gtr.1 = "ignore", check.nobs.vs.nRE = "ignore",
        check.scaleX = "ignore", check.rankX = "ignore"
    )
    terms <- lFormula(formula, data, control = control)$reTrms
    give_text(length(terms$Ztlist))
    for (i in seq_along(terms$Ztlist)) {
        k <- attr(terms$flist, "assign")[i]
        give_text(names(terms$flist)[k])
        give_text(terms$cnms[[i]])
        give_text(levels(terms$flist[[k]]))
        give_numbers(as.matrix(t(terms$Ztlist[[i]])))
    }
}

# The call holds the data, as emmeans looks for them there.
fit <- function(formula, data) do.call(lm, list(update(formula, y ~ .), data = data))

# Estimates, and their standard errors.
give_estimates <- function(result) {
    table <- as.data.frame(summary(result, infer = FALSE))
    give_numbers(table[[if ("emmean" %in% names(table)) "emmean" else "estimate"]])
    give_numbers(table$SE)
}
means <- function(formula, data, specs) {
    # A formula with a/b says nothing here of which levels there are.
    emmeans(fit(formula, data), specs, cov.keep = character(0), cov.reduce = mean, nesting = NULL)
}
give_means <- function(...) give_estimates(means(...))
give_pairs <- function(...) give_estimates(contrast(means(...), "revpairwise", adjust = "none"))

# p of F, and its degrees of freedom, for each term; joint_tests rounds F itself.
give_joint <- function(formula, data) {
    table <- as.data.frame(joint_tests(fit(formula, data)))
    give_text(table[["model term"]])
    give_numbers(table$p.value)
    give_numbers(table$df1)
}
give_type3 <- function(formula, data) {
    options(contrasts = c("contr.sum", "contr.poly"))
    table <- drop1(fit(formula, data), ~ ., test = "F")
    options(contrasts = c("contr.treatment", "contr.poly"))
    give_text(rownames(table))
    give_numbers(table[["Pr(>F)"]])
    give_numbers(table$Df)
}

source(arguments[1])
close(output)
