def groups(group):
    return ()
