"""CRCs put together from those of parts."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.storage.crc32 import combined


@given(one=st.binary(max_size=300), other=st.binary(max_size=3000))
def test_the_crc_of_both_together(one: bytes, other: bytes) -> None:
    assert combined(zlib.crc32(one), zlib.crc32(other), len(other)) == zlib.crc32(one + other)
