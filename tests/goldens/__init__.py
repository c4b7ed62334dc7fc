"""Values and gradients of an earlier version, recomputed by this one."""
