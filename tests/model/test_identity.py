"""Join tokens: their form, their digest, and how they are compared."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.model.errors import InvalidSpec
from skep.model.identity import Credentials, JoinToken, is_same_token, new_token, root_digest

ROOT = "-----BEGIN CERTIFICATE-----\nroot\n-----END CERTIFICATE-----\n"


@given(secret=st.binary(min_size=16, max_size=16), root=st.text(max_size=50))
def test_a_token_reads_back_as_it_was_written(secret: bytes, root: str) -> None:
    token = new_token(root, lambda n: secret[:n])
    assert JoinToken.parse(f"  {token}\n") == token
    assert len(str(token)) == len("SWMTKN-1-") + 50 + 1 + 25
    assert token.root_sha256 == hashlib.sha256(root.encode()).hexdigest()
    token.check_root(root)


def test_a_token_is_made_as_swarmkit_makes_it() -> None:
    token = new_token(ROOT, lambda n: b"\x00" * (n - 1) + b"\x24")
    assert token.secret == "1".rjust(24, "0") + "0"  # 36 in base 36 is 10.
    assert int(token.digest, 36) == int(hashlib.sha256(ROOT.encode()).hexdigest(), 16)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("SWMTKN-1-abc-def", id="short"),
        pytest.param("SWMTKN-2-" + "0" * 50 + "-" + "0" * 25, id="other-version"),
        pytest.param("SWMTKN-1-" + "0" * 50 + "-" + "0" * 24, id="truncated"),
        pytest.param("SWMTKN-1-" + "0" * 50 + "-" + "0" * 26, id="long"),
        pytest.param("SWMTKN-1-" + "A" * 50 + "-" + "0" * 25, id="capitals"),
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="invalid join token"):
        JoinToken.parse(text)


def test_another_root_is_refused_with_the_expected_digest() -> None:
    token = new_token(ROOT, bytes)
    expected = hashlib.sha256(ROOT.encode()).hexdigest()
    with pytest.raises(InvalidSpec, match=f"remote CA does not match fingerprint. Expected: {expected}"):
        token.check_root(ROOT + " ")


def test_tokens_are_the_same_only_when_every_character_is() -> None:
    token = str(new_token(ROOT, bytes))
    assert is_same_token(token, token)
    assert is_same_token(token + "\n", token)
    assert not is_same_token(token[:-1] + "1", token)
    assert not is_same_token("", "")
    assert not is_same_token("é", token)


def test_secrets_do_not_show_in_representations() -> None:
    token = new_token(ROOT, bytes)
    assert token.secret not in repr(token)
    assert "k3y" not in repr(Credentials(certificate="c", key="k3y", root="r"))


def test_the_digest_has_a_fixed_width() -> None:
    assert all(len(root_digest(str(n))) == 50 for n in range(200))
