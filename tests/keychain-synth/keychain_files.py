"""Files of questions for the tests of items."""

HOTPOT = {
    "_id": "5a7a06935542990198eaf050",
    "answer": "Dublin",
    "question": "Where was the author of Dracula born?",
    "supporting_facts": [["Dracula", 1], ["Bram Stoker", 0]],
    "context": [
        ["Dracula", ["Dracula is a novel.", " Its author is Bram Stoker.", " It has letters."]],
        ["Cork", ["Cork is a city."]],
        ["Bram Stoker", ["Bram Stoker was born in Dublin.", " He died in 1912."]],
    ],
    "type": "bridge",
    "level": "hard",
}

WIKI = {
    "_id": "8813f87c0bdd11eba7f7acde48001122",
    "type": "compositional",
    "question": "Where was the director of Up and Away born?",
    "context": [
        ["Up and Away", ["Up and Away is a film.", "It was made by Jan Nowak."]],
        ["Jan Nowak", ["Jan Nowak was born in Wrocław.", "In 2013 he made his first film."]],
        ["Łódź", ["Łódź is a city."]],
    ],
    "supporting_facts": [["Up and Away", 1], ["Jan Nowak", 0]],
    "evidences": [["Up and Away", "director", "Jan Nowak"], ["Jan Nowak", "place of birth", "Wrocław"]],
    "answer": "Wrocław",
}

MUSIQUE = {
    "id": "3hop1__482757_12019_7",
    "paragraphs": [
        {"idx": 0, "title": "A", "paragraph_text": "A leads to B.", "is_supporting": True},
        {"idx": 1, "title": "X", "paragraph_text": "X is idle.", "is_supporting": False},
        {"idx": 2, "title": "B", "paragraph_text": "B leads to C, and C to Delta.", "is_supporting": True},
    ],
    "question": "Where does A lead in the end?",
    "question_decomposition": [
        {"id": 482757, "question": "Where does A lead?", "answer": "B", "paragraph_support_idx": 0},
        {"id": 12019, "question": "Where does #1 lead?", "answer": "Delta", "paragraph_support_idx": 2},
    ],
    "answer": "Delta",
    "answer_aliases": ["Δ", "Delta", " "],
    "answerable": True,
}
