"""Signs every LLM span of a Python web app with who asked, in which conversation, at what cost."""

from byline.attribution import Attribution
from byline.bound import bound
from byline.record import bind, current
from byline.settings import SettingError

__all__ = ["Attribution", "SettingError", "bind", "bound", "current"]
