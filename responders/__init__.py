"""Who answers: logs of slates and clicks, and the neural user models learned from them."""

from responders.errors import InputError
from responders.log import EMPTY, Catalogue, SessionLog, Users

__all__ = ["EMPTY", "Catalogue", "InputError", "SessionLog", "Users"]
