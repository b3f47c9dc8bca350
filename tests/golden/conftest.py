"""Assertions of the cases say what was compared, though they stand outside of a test file."""

import pytest

pytest.register_assert_rewrite("tests.golden.video_cases")
