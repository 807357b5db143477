"""Generated logs in the schema of Yambda, with the structure and the traps of real ones.

settings    presets and overrides
catalogue   songs in albums, artists and niches; popularity, releases, ids
users       activity, spans and drifting tastes
listens     sessions, times, songs and played shares of a block of users
marks       likes, dislikes and what withdraws them
audio       audio embeddings by blocks of songs
mappings    artists and albums of the songs
blocks      the events of a block of users, the unit of work
marginals   counts that are compared with the published ones
writer      streams all of it into the hub's layout
"""
