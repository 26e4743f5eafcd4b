"""The pure heart of WatchLLM: every decision, no I/O, no clock, no chance.

The words of the house:

- *provider*: who makes answers: openai, anthropic, groq, or the built-in sandbox.
- *model*: what the caller asks for; a *route* is the provider and the id it is sent under.
- *completion*: one whole answer in OpenAI's form. A *chunk* is one piece of a streamed one.
- *project*: the customer's unit; a *key* belongs to one and is of kind `project` or `test`.
- *grant*: what a presented key allows.
- *cache key*: the keyed digest of everything that can change an answer; an *entry* is a stored answer.
- *hit*, *miss*: answered from the cache, or not.
- *usage*: tokens in disjoint buckets. *Cost* is integer picodollars.
- *ledger*: one usage record per request.
"""
