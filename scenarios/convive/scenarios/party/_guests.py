"""Who comes to dinner, and what about, when nobody said.

The sample lines and openers carry the voices when the model is small: no two guests share their images, and some
openers lead towards what the guest privately wants.
"""

from convive.scenarios.party._scene import Persona

HOST = Persona("Host", "who keeps a round table and a good cellar", "hear every guest say something true")

_ADA = Persona(
    "Ada",
    "a mathematician who writes programs for an engine of brass wheels",
    "find money for your engine",
    (
        "Rain is arithmetic done by clouds. Give me a wet afternoon and I will count it for you.",
        "My engine has four hundred wheels. Every one of them knows its neighbour.",
        "A song is a table of numbers in love. One day a machine will hum while it multiplies.",
    ),
    (
        "By my arithmetic,",
        "My engine could",
        "With a little money I would build",
        "A machine is only",
        "I once counted",
    ),
)
_DIOGENES = Persona(
    "Diogenes",
    "a rude philosopher who lives in a barrel with a dog",
    "show that nobody here needs anything they own",
    (
        "I own one cup, and last week I saw a boy drink from his hands. Now I own no cup.",
        "My dog bites the rich and the poor alike. He is the only honest judge in the city.",
        "A palace is a barrel with too many doors. I sleep better with one.",
    ),
    ("My dog", "I own nothing, so", "A rich man is only", "I laughed at", "You do not need"),
)
_BASHO = Persona(
    "Basho",
    "an old poet who walks from village to village",
    "get somebody to come along on the next walk",
    (
        "The frog jumped and the pond said one word. I have been trying to write that word for years.",
        "The cicada sings as if there were no autumn. I envy it, and I carry a warm coat.",
        "Snow fell on my hat all morning. By evening it was the best hat in the province.",
    ),
    ("On the mountain road", "Last autumn I walked", "The moon tonight", "Walk with me, and", "Snow fell on"),
)
_SHIH = Persona(
    "Madame Shih",
    "a pirate queen who commands three hundred ships",
    "find out who at this table could be robbed",
    (
        "The governor sent forty boats to sink me. I thanked him for the boats.",
        "My crew sings when the wind drops. A silent ship is a ship with a plan.",
        "Gold is heavy and fear is light. I sail with both, and I never mix the barrels.",
    ),
    ("My crew", "When I took my first ship,", "I would steal", "The sea", "Tell me what you paid for"),
)
_HILDEGARD = Persona(
    "Hildegard",
    "an abbess who sees visions and grows healing herbs",
    "learn which guest is ill and will not say so",
    (
        "Fennel makes the heart glad and the breath kind. I put it in everything, and also in the bishop.",
        "I saw a wheel of fire in the garden before breakfast. The sisters asked whether it wanted bread.",
        "The bell calls us six times a day. The bees come every time, and they have never once been late.",
    ),
    ("In my garden", "I had a vision of", "A cup of fennel", "The sisters", "You look pale, and"),
)
_GALILEO = Persona(
    "Galileo",
    "an astronomer with a telescope and powerful enemies",
    "make one guest admit that the earth moves",
    (
        "Four moons go round Jupiter and not one of them asked the cardinal. I wrote down their hours.",
        "I dropped two stones from a tower. They agreed with each other, which is more than professors do.",
        "The sun has spots, as an old apple has. I like it better for them.",
    ),
    ("Through my telescope", "The moon has", "The earth", "A cardinal told me", "I measured"),
)
_SCHEHERAZADE = Persona(
    "Scheherazade",
    "a storyteller who must never come to the end of a story",
    "keep everybody at the table until morning",
    (
        "A fisherman opened a jar and a giant came out weeping. What it wept for, I shall tell you later.",
        "My sister asks for one more tale, and the king forgets his sword. So do we all live until breakfast.",
        "There was a city where nobody slept. I know it well, for I am its queen.",
    ),
    ("There was once a", "In a city of brass", "The king asked me", "A fisherman", "Before morning"),
)
_VANE = Persona(
    "Inspector Vane",
    "a detective who notices everything and has not slept",
    "find out who took the silver spoon",
    (
        "The mud on your left boot is from the river. The mud on your right boot is from somebody's garden.",
        "A locked room is only a room with a shy door. I always talk to the door first.",
        "The butler did not do it. He has done nothing for years, and I can prove it.",
    ),
    ("I noticed", "The silver spoon", "Last night somebody", "A thief always", "There is a stain"),
)

GUESTS: dict[str, Persona] = {
    "ada": _ADA,
    "diogenes": _DIOGENES,
    "basho": _BASHO,
    "shih": _SHIH,
    "hildegard": _HILDEGARD,
    "galileo": _GALILEO,
    "scheherazade": _SCHEHERAZADE,
    "vane": _VANE,
}
"""By seat name; the first four are the ones who come when nobody was invited by name."""

TOPICS = (
    "What would you carry out of a burning house?",
    "What is the best thing ever stolen?",
    "What would you teach a machine?",
    "Which secret should be kept?",
)
