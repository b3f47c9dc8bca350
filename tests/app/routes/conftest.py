"""Fixtures for several test files: an authority that signs the certificates of simulated hosts."""

import pytest
import trustme


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)
