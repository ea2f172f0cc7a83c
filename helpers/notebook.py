"""What every notebook with parameters asks first."""

import ast

from IPython import get_ipython


def check_parameters() -> None:
    """ValueError for a parameter that papermill was given but the notebook does not have, which it only logs.

    Stands in the cell after the parameters. They are one cell of annotated values, behind which papermill puts a cell
    of its own, so the cells that have run tell; without papermill, or run in another order, there is nothing to check.
    """
    cells = get_ipython().user_ns["In"] if get_ipython() else []
    at = max((k for k, cell in enumerate(cells) if cell.startswith("# Parameters\n")), default=0)
    declared = _names(cells[at - 1], ast.AnnAssign) if at else []
    unknown = [name for name in _names(cells[at], ast.Assign) if name not in declared] if declared else []
    if unknown:
        raise ValueError(
            f"this notebook has no parameter {unknown[0]!r}: it takes {', '.join(declared)} (papermill -p NAME VALUE)"
        )


def _names(cell: str, kind: type[ast.Assign] | type[ast.AnnAssign]) -> list[str]:
    """What a cell of nothing but assignments of this kind sets; nothing for another cell."""
    try:
        lines = ast.parse(cell).body
    except SyntaxError:  # a slip in an interactive session
        return []
    if not all(isinstance(line, kind) for line in lines):
        return []
    return [line.target.id if kind is ast.AnnAssign else line.targets[0].id for line in lines]
