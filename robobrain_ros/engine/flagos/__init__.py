"""FlagOS around an embedded engine. The engine uses four calls:

- `decision.check_names`: check the names of operators in the options.
- `decision.choose`: decide who selects the operators, and which of FlagGems' operators are used.
- `session.Session`: one engine's FlagGems: settings of the workers, what they report, and what failed.
- `recovery.find_culprit`: find the operator that fails.
"""
