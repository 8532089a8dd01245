"""Weights of classes from the command line."""

import pytest

from aurevoir.cli.class_weight import class_weight
from aurevoir.errors import UsageError

CLASSES = {"cat", "dog", "a=b"}


def test_what_is_taken(tmp_path):
    path = tmp_path / "w.json"
    path.write_text('{"cat": 2, "dog": 0.5}')
    assert class_weight(None, CLASSES) is None
    assert class_weight(["balanced"], CLASSES) == "balanced"
    assert class_weight(["cat=2", "dog=0.5"], CLASSES) == class_weight([str(path)], CLASSES) == {"cat": 2, "dog": 0.5}
    assert class_weight(["a=b=3"], CLASSES) == {"a=b": 3}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cta=2"], "cta is not one of the classes; did you mean cat?"),
        (["x=2"], "x is not one of the classes; those are a=b, cat, dog"),
        (["cat=two"], "cat=two is not a positive number; give one, such as 2.5"),
        (["cat=0"], "cat=0 is not a positive number"),
        (["cat=inf"], "cat=inf is not a positive number"),
        (["cat=nan"], "cat=nan is not a positive number"),
        (["balanced", "cat=2"], "balanced is not NAME=WEIGHT; give balanced, or one file, alone"),
        (["none.json"], "file of class weights none.json does not exist; give balanced, NAME=WEIGHT, or a JSON file"),
    ],
)
def test_what_is_refused(words, message):
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        class_weight(words, CLASSES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "holds a list, not a JSON object"),
        ("{", "is not JSON"),
        ('{"cat": 1, "cat": 2}', "the name 'cat' is repeated"),
        ('{"cat": true}', "cat=True is not a positive number"),
        ('{"cat": [1]}', r"cat=\[1\] is not a positive number"),
    ],
)
def test_files_that_are_refused(tmp_path, text, message):
    path = tmp_path / "w.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        class_weight([str(path)], CLASSES)
