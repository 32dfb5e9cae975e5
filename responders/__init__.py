"""Who answers: logs of slates and clicks, and the neural user models learned from them."""

from responders.errors import InputError
from responders.log.catalogue import EMPTY, Catalogue, Users
from responders.log.session_log import SessionLog

__all__ = ["EMPTY", "Catalogue", "InputError", "SessionLog", "Users"]
