"""What commands import, for the server of `tests.commands` to import once."""

import sklearn.linear_model  # noqa: F401
import torch._dynamo  # noqa: F401

import responders.models.recurrent
import responders.training.fit  # noqa: F401
