"""The same calls through each SDK: a class ``Calls`` whose methods return the ids of the replies.

A scenario whose method a class lacks is one that the SDK has no API for. Methods are plain functions,
coroutine functions or, for bodies that are streamed on to the app's client, asynchronous generators.
"""
