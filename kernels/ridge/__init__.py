"""Ridge classification in closed form; leave-one-out selects alpha.

Targets are +1 for a row's own class and -1 elsewhere; the intercept is not penalised. With sample
weights s (by default 1), S = diag(s), u = sqrt(s) / |sqrt(s)|, X the rows minus their weighted mean, times
sqrt(s), K the Gram of X, and Y the targets centred and scaled in the same way,

    dual:    c = (K + alpha I)^-1 Y,        residual_i = c_i / (G_ii - u_i^2 / alpha) / sqrt(s_i)
    primal:  w = (X'X + alpha I)^-1 X'Y,    residual_i = (y_i - f(x_i)) / (1 - h_i)

where G = (K + alpha I)^-1 and h is the diagonal of the hat matrix. Both residuals equal those of a
fit without row i (Rifkin & Lippert 2007, MIT-CSAIL-TR-2007-025; u_i^2 / alpha is due to the unpenalised
intercept). To avoid cancellation for small alpha, u_i^2 / alpha is not subtracted directly: G is computed
from K + alpha I + t uu' with t > 0, which changes only the eigenvalue of u, and the remaining term
u_i^2 / (alpha + t) stays small.
"""

from .dual import SEARCHES, dual_path
from .inputs import default_alphas, one_vs_rest
from .landmarks import landmark_path
from .path import RidgePath
from .primal import primal_path

__all__ = ["SEARCHES", "RidgePath", "default_alphas", "dual_path", "landmark_path", "one_vs_rest", "primal_path"]
