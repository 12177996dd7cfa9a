"""The proofs and measurements that need a GPU: `make gpu`. Each part is a module with `run(session)`.

A part runs in processes of its own, because an error of CUDA, a crash or a hang would end the others too. Its checks
and results go to a journal, line by line, so that whatever happens, all that was measured before is kept.
"""
