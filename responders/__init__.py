"""Who answers: logs of slates and clicks, and the neural user models learned from them."""

from responders.catalogue import EMPTY, Catalogue, Users
from responders.errors import InputError
from responders.log import SessionLog

__all__ = ["EMPTY", "Catalogue", "InputError", "SessionLog", "Users"]
