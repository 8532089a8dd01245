"""Ridge classification in closed form: leave-one-out picks alpha.

Targets are +1 for a row's own class and -1 elsewhere; the intercept is not penalised. With weights
s of the rows (1 where none are given), S = diag(s), u = sqrt(s) / |sqrt(s)|, rows less their weighted
mean and times sqrt(s), K the Gram of those rows, X the rows themselves and Y the targets treated
alike,

    dual:    c = (K + alpha I)^-1 Y,        residual_i = c_i / (G_ii - u_i^2 / alpha) / sqrt(s_i)
    primal:  w = (X'X + alpha I)^-1 X'Y,    residual_i = (y_i - f(x_i)) / (1 - h_i)

where G = (K + alpha I)^-1 and h is the diagonal of the hat matrix. Both residuals are those of a
fit without row i (Rifkin & Lippert 2007, MIT-CSAIL-TR-2007-025; u_i^2 / alpha is the share of the
free intercept). It is never subtracted here: G is taken of K + alpha I + t uu', t > 0, which moves
only the eigenvalue of u, and what remains to subtract, u_i^2 / (alpha + t), stays small, so that a
tiny alpha costs the residuals no digits.
"""

from .dual import SEARCHES, dual_path
from .inputs import default_alphas, one_vs_rest
from .path import RidgePath
from .primal import primal_path

__all__ = ["SEARCHES", "RidgePath", "default_alphas", "dual_path", "one_vs_rest", "primal_path"]
