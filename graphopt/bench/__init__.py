"""Load for a server that speaks OpenAI's protocol, whoever made it, and what came of it.

lengths, arrivals, trace    when requests come and how long they are
prompts                     texts of so many tokens
client, events              one request, its stream read and timed
load                        all of them, at their times
summary, goal               what they took, and how many were fast enough
show, plots                 tables and pictures
"""
