import base64
import json
import sys

import numpy as np
import pytest

import aurevoir
from aurevoir import signing
from aurevoir.cli.main import main
from aurevoir.errors import AurevoirError, MissingPackageError, UsageError
from aurevoir.transfer.estimator import OpticalClassifier


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for call in (signing.sign, signing.verify):
        with pytest.raises(MissingPackageError, match=r"pip install 'aurevoir\[sign\]'"):
            call(tmp_path, tmp_path / "key")
    assert main(["sign", str(tmp_path), "--key", "key"]) == 3


@pytest.fixture
def keys(tmp_path):
    """Files of two pairs of keys, PEM and OpenSSH."""
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    from cryptography.hazmat.primitives import serialization as form

    folder = tmp_path / "keys"
    folder.mkdir()
    for name, private_form, public_form, encoding in (
        ("pem", form.PrivateFormat.PKCS8, form.PublicFormat.SubjectPublicKeyInfo, form.Encoding.PEM),
        ("ssh", form.PrivateFormat.OpenSSH, form.PublicFormat.OpenSSH, form.Encoding.OpenSSH),
    ):
        key = ed25519.Ed25519PrivateKey.generate()
        (folder / name).write_bytes(key.private_bytes(form.Encoding.PEM, private_form, form.NoEncryption()))
        (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(encoding, public_form))
        locked = form.BestAvailableEncryption(b"secret")
        (folder / f"{name}.locked").write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, locked))
    return folder


@pytest.fixture
def model(tmp_path):
    random = np.random.default_rng(0)
    X = random.normal(size=(12, 40))
    folder = tmp_path / "model"
    OpticalClassifier(projection="none").fit(X, np.arange(12) % 3).save(folder)
    return folder


@pytest.mark.parametrize("form", ["pem", "ssh"])
def test_a_signed_folder_verifies_loads_and_is_replaced(keys, model, form):
    signed = signing.sign(model, keys / form)
    assert signed["signature"] == str(model / signing.SIGNATURE)
    assert set(signed["files"]) == {"model.json", "readout.safetensors", "training.safetensors", "README.md"}
    assert signing.verify(model, keys / f"{form}.pub") == signed
    loaded = aurevoir.load(model)
    loaded.save(model)
    assert aurevoir.load(model).classes_.tolist() == [0, 1, 2]


def test_a_signed_file_verifies_under_another_name(keys, tmp_path):
    engine, moved = tmp_path / "a.engine", tmp_path / "b.engine"
    engine.write_bytes(b"engine")
    signing.sign(engine, keys / "pem")
    engine.rename(moved)
    with pytest.raises(AurevoirError, match=r"b.engine.sig is missing"):
        signing.verify(moved, keys / "pem.pub")
    (tmp_path / "a.engine.sig").rename(tmp_path / "b.engine.sig")
    assert list(signing.verify(moved, keys / "pem.pub")["files"]) == ["."]
    moved.write_bytes(b"Engine")
    with pytest.raises(AurevoirError, match="b.engine was changed after it was signed"):
        signing.verify(moved, keys / "pem.pub")


def test_an_encrypted_key_takes_its_password_from_the_environment(keys, model, monkeypatch):
    with pytest.raises(UsageError, match="set AUREVOIR_KEY_PASSWORD"):
        signing.sign(model, keys / "pem.locked")
    monkeypatch.setenv("AUREVOIR_KEY_PASSWORD", "secret")
    signing.sign(model, keys / "pem.locked")
    signing.verify(model, keys / "pem.pub")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "README.md").write_text("other"), "README.md was changed"),
        (lambda folder: (folder / "README.md").unlink(), "README.md was removed"),
        (lambda folder: (folder / "notes").mkdir() or (folder / "notes" / "a").touch(), "notes/a was added"),
        (lambda folder: (folder / "notes").symlink_to("README.md"), "notes is a link"),
        (lambda folder: (folder / signing.SIGNATURE).unlink(), "signature.json is missing"),
        (lambda folder: (folder / signing.SIGNATURE).write_text("{}"), "signature.json is not a signature"),
        (lambda folder: (folder / signing.SIGNATURE).write_text("[" * 10**5), "signature.json is not a signature"),
        (lambda folder: (folder / signing.SIGNATURE).write_bytes(bytes(2**20 + 1)), "holds 1,048,577 bytes"),
    ],
)
def test_what_was_changed_is_refused(keys, model, change, message):
    signing.sign(model, keys / "pem")
    change(model)
    with pytest.raises(AurevoirError, match=message):
        signing.verify(model, keys / "pem.pub")


def test_nothing_is_read_that_nobody_signed(keys, model):
    signing.sign(model, keys / "pem")
    with (model / "hole").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(AurevoirError, match="hole was added"):
        signing.verify(model, keys / "pem.pub")


@pytest.mark.parametrize("field", ["files", "key", "schema", "signature"])
def test_every_field_of_a_signature_counts(keys, model, field):
    signing.sign(model, keys / "pem")
    path = model / signing.SIGNATURE
    content = json.loads(path.read_bytes())
    (model / "README.md").write_text("other")
    digest = signing._digests(model)
    content[field] = {
        "files": digest,
        "key": "0" * 64,
        "schema": "aurevoir-signature/2",
        "signature": base64.b64encode(bytes(64)).decode(),
    }[field]
    path.write_text(json.dumps(content))
    with pytest.raises(AurevoirError):
        signing.verify(model, keys / "pem.pub")


def test_another_key_is_refused(keys, model):
    signing.sign(model, keys / "pem")
    with pytest.raises(AurevoirError, match="was signed with the key"):
        signing.verify(model, keys / "ssh.pub")


def test_what_is_no_key_or_nothing_to_sign_is_refused(keys, model, tmp_path):
    (tmp_path / "text").write_text("text")
    for path, key, message in (
        (model, keys / "pem.pub", "cannot be read as private key"),
        (model, tmp_path / "text", "cannot be read as private key"),
        (model, tmp_path / "none", "none is not a file"),
        (tmp_path / "none", keys / "pem", "none is no file or folder"),
        (tmp_path, keys / "pem", "is not a model folder"),
    ):
        with pytest.raises(UsageError, match=message):
            signing.sign(path, key)
    with pytest.raises(UsageError, match="cannot be read as public key"):
        signing.verify(model, keys / "pem")


def test_the_command_line_signs_and_verifies(keys, model, capsys):
    assert main(["sign", str(model), "--key", str(keys / "pem"), "--json"]) == 0
    signed = json.loads(capsys.readouterr().out)
    assert main(["verify", str(model), "--key", str(keys / "pem.pub")]) == 0
    assert f"4 file(s) as signed with the key {signed['key']}" in capsys.readouterr().out
    (model / "README.md").write_text("other")
    assert main(["verify", str(model), "--key", str(keys / "pem.pub")]) == 1
    assert "README.md was changed after it was signed" in capsys.readouterr().err


def test_a_file_that_is_no_signature_is_not_replaced_by_one(keys, model, tmp_path):
    place = signing.signature_path(model)
    place.write_bytes(b"mine")
    with pytest.raises(AurevoirError, match="is another file, and is left as it is"):
        signing.sign(model, keys / "pem")
    assert place.read_bytes() == b"mine"
    place.unlink()
    assert signing.sign(model, keys / "pem") == signing.sign(model, keys / "pem")
