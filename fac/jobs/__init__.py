"""Carrying out specs, in this process or in the worker that the dashboard leaves them to.

steps     a spec -> the step that carries it out; models stay loaded from one to the next
worker    takes specs from the queue, in a process of its own
training  what no page asks for: training an SAE, preflight, chats, the demo's runs computed anew

The dashboard only puts specs into the queue and starts the worker; the command line carries out
`steps` directly. Nothing here is imported with a model's libraries until one is needed.
"""
