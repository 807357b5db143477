"""The music map: all songs on a plane, as one page that works offline and recommends by itself."""
