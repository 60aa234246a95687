"""Owns calls in a disposable process, with a limit of memory and a deadline: whatever a user's file does to a decoder
stays there. Does not know what it calls.
"""
