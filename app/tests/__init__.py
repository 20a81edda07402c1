import pytest

pytest.register_assert_rewrite(f"{__name__}.browser")  # pytest explains the failed asserts of this module
