"""Operators of FlagOS in an embedded engine. The engine uses these functions and this class:

- `decision.check_names`: check the names of operators in the options.
- `decision.choose`: decide whether this package or vllm-plugin-FL selects the operators, and which operators of FlagGems are
  used.
- `session.Session`: the settings of one engine's workers, the workers' reports, and the operator that failed.
- `recovery.find_culprit`: find the operator that fails.
"""
