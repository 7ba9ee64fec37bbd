"""Read YAML as people write it: text stays text, and no file takes all memory or time."""

from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError, SafeConstructor

from nipype_blm.errors import InputError, shorten, show
from nipype_blm.io.tables import read_text

_TAG = "tag:yaml.org,2002:"
_MERGE, _TEXT = f"{_TAG}merge", f"{_TAG}str"  # a merge key is "<<"
_PLAIN = tuple(f"{_TAG}{kind}" for kind in ("int", "float", "bool", "null"))
# Configurations are a few levels deep; each takes several frames of Python's stack.
_DEEPEST = 50
_MOST_REPEATED = 100_000  # nodes that aliases add
_LONGEST_NUMBER = 100  # characters


class _Loader(yaml.SafeLoader):
    """Reads text, numbers, truth values, lists and mappings; a key that repeats is refused."""

    yaml_constructors = {  # noqa: RUF012
        tag: SafeConstructor.yaml_constructors[tag]
        for tag in (f"{_TAG}str", f"{_TAG}seq", f"{_TAG}map", None)
    }
    # 2020-02-03 is text, as in YAML 1.2, and no date; so is a lone =.
    yaml_implicit_resolvers = {  # noqa: RUF012
        start: [(tag, regexp) for tag, regexp in resolvers if tag in (*_PLAIN, _MERGE)]
        for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._n_nodes = 0  # with those that aliases repeat
        self._n_repeated = 0
        self._sizes: dict[yaml.Node, int] = {}  # of nodes that are complete

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, unless aliases or nesting make the whole too large."""
        event: Any = self.peek_event()
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ConstructorError(
                None, None, f"nested more than {_DEEPEST} levels deep", event.start_mark
            )
        n_before = self._n_nodes
        node: Any = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            self._repeat(node, event)
        else:
            self._n_nodes += 1
            self._sizes[node] = self._n_nodes - n_before
        self._depth -= 1
        return node

    def _repeat(self, node: yaml.Node, event: Any) -> None:
        if node not in self._sizes:
            raise ConstructorError(None, None, "an alias of what it is part of", event.start_mark)
        self._n_nodes += self._sizes[node]
        self._n_repeated += self._sizes[node]
        if self._n_repeated > _MOST_REPEATED:
            raise ConstructorError(
                None,
                None,
                f"aliases repeat more than {_MOST_REPEATED} values; write what is meant in full",
                event.start_mark,
            )

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping whose keys are text, as written, and given once."""
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a field must be a word", key.start_mark)
            if key.tag == _MERGE:  # which may repeat fields of the mapping
                continue
            if key.value in keys:
                raise ConstructorError(
                    None, None, f"the field {show(key.value)} is given twice", key.start_mark
                )
            keys.add(key.value)
        node.value = [
            (key if key.tag == _MERGE else self._make_text(key), value) for key, value in node.value
        ]
        return super().construct_mapping(node, deep)

    def _make_text(self, key: yaml.ScalarNode) -> yaml.ScalarNode:
        return yaml.ScalarNode(_TEXT, key.value, key.start_mark, key.end_mark, key.style)

    def construct_plain(self, node: Any) -> Any:
        """Return a number, a truth value or None.

        10:00:00 is a time, as in YAML 1.2, and not 36000; and what is longer than any number is
        text.
        """
        if not isinstance(node, yaml.ScalarNode):
            return self.construct_undefined(node)
        if ":" in node.value or len(node.value) > _LONGEST_NUMBER:
            return node.value
        try:
            return yaml.SafeLoader.yaml_constructors[node.tag](self, node)
        except (ValueError, KeyError, IndexError) as error:  # such as !!int abc
            tag = node.tag.removeprefix(_TAG)
            raise ConstructorError(
                None, None, f"{show(node.value)} is no !!{tag}", node.start_mark
            ) from error

    def construct_scalar(self, node: Any) -> Any:
        """Return text that can be written in UTF-8, as names and paths have to be."""
        text = super().construct_scalar(node)
        if "\0" in str(text):
            raise ConstructorError(None, None, f"{show(text)} has a null byte", node.start_mark)
        if isinstance(text, str) and not text.isascii():
            try:  # JSON writes one character as two halves
                text = text.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError as error:
                raise ConstructorError(
                    None, None, f"{show(text)} has half of a character", node.start_mark
                ) from error
        return text

    def construct_undefined(self, node: Any) -> Any:
        """Refuse a tag."""
        tag = node.tag.replace(_TAG, "!!")
        raise ConstructorError(
            None, None, f"the tag {tag} has no meaning here; leave it out", node.start_mark
        )


for _tag in _PLAIN:
    _Loader.add_constructor(_tag, _Loader.construct_plain)
_Loader.add_constructor(None, _Loader.construct_undefined)


def read_yaml(path: Path, what: str = "Configuration file") -> Any:
    """Read a file of YAML; `what` names it in messages."""
    text = read_text(path, what)
    if text.lstrip().startswith("{"):  # JSON, which may be indented with tabs
        text = text.replace("\t", " ")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        reason = f"{error.context or ''} {error.problem}".strip()
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise InputError(f"{path} is not valid YAML: {shorten(reason)}{place}.") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(
            f"{path} is not valid YAML: the character {chr(error.character)!r} in line {line} "
            "is not allowed."
        ) from error
