"""How a family writes the coordinates of an answer. `core.grammars` makes a grammar of it, which constrains the answer."""

from dataclasses import dataclass

MOST_POINTS = 20
MOST_WAYPOINTS = 10
BLANKS = "[ \n\t]{0,8}"
"""The whitespace between the parts of a JSON text."""
LABEL = r'"[^"\\\n]{0,80}"'
"""A JSON string without escapes."""
_FENCE = "\n{0,2}(```json\n)?"
_END_OF_FENCE = "(\n```)?"


@dataclass(frozen=True)
class Writing:
    r"""The form of an answer with coordinates: ``before``, a list of items, ``after``.

    The texts are regular expressions of groups and character classes. Slots in ``item`` stand for numbers: ``{x}`` and ``{y}``
    for coordinates, ``{depth}`` for metres. Separators between the numbers of a coordinate should be ``, ?``: a model that was
    trained with another separator writes wrong numbers after a mandatory blank.

    :param item: one point, such as ``\({x}, ?{y}\)``, or one bounding box, with two of each slot.
    :param opening: before the first item of the list.
    :param closing: after the last item of the list.
    :param least: minimum number of items. 0 allows an empty list: the model found nothing.
    :param most: maximum number of items.
    :param bare: whether a single item may stand without ``opening`` and ``closing``.
    :param optional: whether the empty text is allowed too. It is the answer of a checkpoint that cannot think to a prompt with
        think tags.
    """

    item: str
    opening: str = r"\["
    closing: str = r"\]"
    separator: str = ", ?"
    before: str = ""
    after: str = ""
    least: int = 0
    most: int = MOST_POINTS
    bare: bool = False
    optional: bool = False

    def pattern(self, x: str, y: str, depth: str) -> str:
        """Return the regular expression of the whole answer.

        :param x: pattern of a number to the right.
        :param y: pattern of a number downwards.
        :param depth: pattern of a depth in metres.
        """
        item = self.item.replace("{x}", x).replace("{y}", y).replace("{depth}", depth)
        items = item
        if self.most > 1:
            items = f"{item}({self.separator}{item}){{{max(self.least, 1) - 1},{self.most - 1}}}"
        whole = f"{self.opening}{items if self.least else f'({items})?'}{self.closing}"
        if self.bare:
            whole = f"({whole}|{item})"
        whole = f"{self.before}{whole}{self.after}"
        return f"({whole})?" if self.optional else whole


def json_items(item: str, *, least: int = 0, most: int = MOST_POINTS, bare: bool = False) -> Writing:
    """Return the writing of a list of JSON objects, with or without a Markdown fence around it."""
    return Writing(
        item,
        opening=rf"\[{BLANKS}",
        closing=rf"{BLANKS}\]",
        separator=f",{BLANKS}",
        before=_FENCE,
        after=_END_OF_FENCE,
        least=least,
        most=most,
        bare=bare,
    )


def json_object(*fields: str) -> str:
    """Return the pattern of a JSON object with these fields. A field is a pattern such as ``"depth": ?{depth}``."""
    return rf"\{{{BLANKS}" + f",{BLANKS}".join(fields) + rf"{BLANKS}\}}"
