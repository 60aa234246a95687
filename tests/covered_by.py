"""Source files without a test file of their name, each with the file that covers it. The list only shrinks."""

COVERED_BY = {
}
