"""The console: pages for people, rendered here and served without anything from elsewhere.

Server-rendered HTML with a style sheet and a few small ES modules of its own, under ``/console/``.
Every page works without JavaScript; with it, pages follow what happens.
"""
