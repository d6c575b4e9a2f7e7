"""`lucent.optvis.objectives_util`: pieces of objectives that scripts of lucent's import."""

from fvfast.compat.lucent.optvis.objectives import extract_act_pos as _extract_act_pos
from fvfast.compat.lucent.optvis.objectives import make_arg_str as _make_arg_str
from fvfast.compat.lucent.optvis.objectives import of_one as _T_handle_batch

__all__ = ["_T_handle_batch", "_extract_act_pos", "_make_arg_str"]
