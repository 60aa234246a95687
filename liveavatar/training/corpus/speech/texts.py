"""Unique English sentences for synthetic speech, drawn from templates and a vocabulary of our own.

A *template* is a sentence with slots (`{noun}`); `sentences` fills it with words. Templates of the held-out
split are never used for training, so a held-out sentence is unseen in wording as well as in structure.
Does not know the voices that speak them.
"""

import string
from collections.abc import Iterator

import numpy as np

VOCABULARY: dict[str, str] = {
    "name": "Pamela|Bob|Vivian|Thomas|Zoe|Judith|George|Fiona|Oliver|Maya|Peter|Ruth|Samuel|Chloe|Brian|Amara|Hugo|"
    "Penny|Wesley|Beatrice|Kevin|Martha|Yusuf|Ingrid|Philip|Rosa|Theo|Charlotte|Mohammed|Ewan|Mabel|Victor|Joyce|"
    "Raj|Louise|Benjamin|Sheila|Marco|Ethel|Walter|Naomi|Douglas|Freya|Umberto|Wendy|Arthur|Bridget|Paul",
    "place": "Plymouth|Prague|Boston|Vienna|Geneva|Bombay|Moscow|Washington|Chicago|Osaka|Paris|Cape Town|Buffalo|"
    "the valley|the harbour|the village|the museum|the airport|the library|the old town|the southern coast|"
    "the market square|the lower office|the football ground|the theatre|our northern branch|the power plant|"
    "the mountains|the river bank|the church|the workshop|the hospital|the bakery|the fish market|the big warehouse",
    "noun": "boat|umbrella|package|violin|camera|ticket|window|puppet|machine|bicycle|garden|purple vase|mushroom|"
    "wolf|pumpkin|orange|thumb|feather|shovel|pillow|computer|map|bottle|glove|hammer|jacket|kettle|lamp|mirror|"
    "notebook|oven|painting|quilt|robot|spoon|telephone|uniform|vehicle|wheel|yacht|zebra|bench|choir|dove|engine|"
    "flower|goose|house|island|jar|kitchen|ladder|moon|necklace|owl|pump|queen|river|shoe|tower|vowel|whistle|"
    "measure|treasure|voice|beam|pipe|web page|video|puzzle|bubble|balloon|memo|movie|poem|problem|number|apple|"
    "chimney|bathtub|breath|path|cloth|leather belt|brother|judge|bridge|pigeon|fountain|mouse|cow|toy|coin|bear",
    "plural": "wolves|boxes|people|apples|shoes|numbers|pigeons|members|players|visitors|documents|files|children|"
    "problems|bananas|movies|bubbles|paths|months|voices|waves|beams|maps|pumps|puppies|thieves|farmers|robots|"
    "buttons|windows|engines|flowers|questions|answers|watches|dishes|chips|sheep|teachers|judges|bridges|mothers",
    "mass": "water|music|butter|bread|honey|smoke|snow|weather|pressure|traffic|furniture|coffee|cheese|rubber|gravel|"
    "software|paper|marmalade|vapour|sugar|money|pepper|jam|wood|wool|milk|juice|soup|mustard|fabric|power",
    "adjective": "big|small|beautiful|purple|very old|empty|warm|huge|noisy|smooth|rough|marvellous|broken|yellow|"
    "quiet|rapid|famous|thin|thick|fresh|proper|clever|obvious|public|simple|wooden|heavy|brave|bright|wild|"
    "vivid|usual|unusual|royal|curious|modern|cheap|expensive|peaceful|jumbled|wide|narrow|round|hopeful|blue",
    "adverb": "slowly|quickly|carefully|happily|usually|finally|probably|simply|rapidly|quietly|proudly|smoothly|"
    "warmly|boldly|gently|obviously|perfectly|very well|every day|once again|without any problem|by mistake",
    "verb": "bought|borrowed|painted|found|moved|opened|followed|pushed|measured|threw|shipped|repaired|watched|chose|"
    "brought|lifted|dropped|booked|photographed|remembered|forgot|improved|removed|wrapped|polished|caught|built|"
    "heard about|asked for|looked at|played with|paid for|walked past|jumped over|climbed up to|worked on|thought of",
    "action": "buy|borrow|paint|find|move|open|follow|push|measure|throw|ship|repair|watch|choose|bring|lift|drop|book|"
    "remember|improve|remove|wrap|polish|catch|build|ask for|look at|play with|pay for|prepare|publish|verify|"
    "compare|approve|simplify|update|review|move away from|share|enjoy|finish|avoid|rebuild|describe|explain",
    "time": "on Monday|on Tuesday morning|last Thursday|in November|in the evening|before breakfast|after lunch|"
    "at half past five|at noon|this week|next month|tomorrow|the day after tomorrow|in early February|"
    "around midnight|every Saturday|in two hours|last summer|a few minutes ago|just before seven|"
    "when the bell rings|while we were away|over the weekend|by the end of the year|in the beginning",
    "number": "two|three|four|five|six|seven|eleven|twelve|thirteen|seventeen|twenty one|thirty five|forty|fifty six|"
    "sixty three|seventy five|eighty eight|ninety nine|a hundred|two hundred and fifty|one thousand|"
    "four hundred and sixty two|about seven thousand|fifteen|eighty|one and a half million|twenty five",
    "job": "farmer|teacher|baker|judge|pilot|painter|plumber|dancer|doctor|lawyer|shepherd|musician|photographer|chef|"
    "waiter|professor|nurse|builder|fisherman|boxer|mayor|driver|officer|programmer|author|jeweller|bishop|butler",
    "feeling": "happy|proud|worried|surprised|ashamed|hopeful|nervous|pleased|amazed|quite sure|fairly calm|"
    "rather upset|a bit puzzled|deeply moved|completely lost|wide awake|ready to move|fed up|over the moon",
    "product": "the new app|our support line|the phone|the weather service|this tablet|the voice assistant|"
    "the web shop|"
    "our premium plan|the public beta|the video studio|the payment page|your subscription|the booking form|"
    "the summer update|our flagship model|the privacy policy|the free version|the map viewer|your profile",
    "topic": "the weather|football|modern music|power prices|public transport|good food|space travel|the market|health|"
    "human rights|wildlife|our roadmap|the budget|the movie business|safety at work|home improvement|poetry|"
    "cheap flights|the climate|small business|computer games|folk music|the economy|old bridges|bees and honey",
    "opener": "Well,|You know,|Of course,|By the way,|Honestly,|Frankly,|In my view,|Above all,|As far as I know,|"
    "Believe it or not,|To be fair,|Maybe|Perhaps|From now on,|First of all,|Above everything else,|Even so,|"
    "In other words,|So far,|For example,|Surprisingly,|More importantly,|However,|On the other hand,",
    "greeting": "Hello|Good morning|Good evening|Welcome back|Hi everyone|Hello and welcome|Good afternoon|"
    "Thank you for joining us|Nice to meet you|Hey|Greetings|A very warm welcome to all of you",
    "word": "above|after|again|baby|bamboo|bathe|beauty|boom|both|brown|bumper|butterfly|calm|champion|cheap|child|"
    "chew|cloud|cube|data|deep|dream|each|ease|echo|eight|fable|farm|few|fifty|flavour|food|foot|forge|full|"
    "fuse|ghost|glow|goat|group|happy|hope|hour|huge|idea|jewel|join|judge|jungle|kayak|key|knife|labour|"
    "laugh|leaf|loop|love|lumber|mammoth|map|memory|mouth|move|music|name|near|noodle|oath|oil|once|onion|"
    "ooze|out|palm|pause|people|pepper|phone|plum|pool|proof|pupil|puff|quake|queue|quiz|rough|ruby|shape|"
    "shame|sheep|shoe|shrub|sieve|smooth|soap|soothe|spoon|tooth|thumb|token|tomb|tribe|truth|tulip|unite|"
    "use|value|vapour|verb|vibe|view|voyage|wave|weave|west|whale|wheel|why|wife|wobble|wolf|wood|year|you|"
    "youth|zebra|zero|zip|zoom|pearl|bird|world|earth|hurry|mirror|arrow|borrow|fire|power|flower|sour|our",
    "letter": "A|B|C|D|E|F|G|H|I|J|K|L|M|N|O|P|Q|R|S|T|U|V|W|X|Y|Z",
}  # fmt: skip
WORDS: dict[str, list[str]] = {slot: text.split("|") for slot, text in VOCABULARY.items()}

TRAIN_TEMPLATES = """{name} {verb} the {adjective} {noun} {time}.
{greeting}, my name is {name}, and I am the {job} of {place}.
{opener} the {plural} from {place} {verb} our {noun}.
Why would {number} {plural} {action} the {adjective} {noun}?
Please {action} the {noun}, then {action} the {adjective} {noun}.
{opener} {product} will be available {time}.
Could you please {action} the {plural} {adverb}?
We have {number} {plural} and {number} {plural} in {place}.
{name} and {name} {verb} {mass} and {mass} near {place}.
I am {feeling}, because the {job} {verb} my {noun}.
Today we talk about {topic}, {topic}, and {topic}.
{number} {adjective} {plural} leave {place} {time}.
Who will {action} the {noun} if {name} is {feeling}?
The {noun} is {adjective}, but the {noun} is {adjective}.
What a {adjective} {noun}! Where did you {action} it?
With {product} you can {action} {plural} {adverb}, even {time}.
{opener} nobody should {action} a {noun} {adverb}.
Yes. No. {opener} {name} was {feeling} {time}.
Turn left at {place}, then {action} the {noun} and wait.
The price of {mass} rose by {number} percent {time}.
{name}, would you like {mass}, {mass}, or a {noun}?
Above the {noun} there was a {adjective} {noun} full of {mass}.
My mother {verb} {number} {plural}; my father {verb} the {noun}.
{topic} matters more than {topic}, don't you think?
Whatever happens {time}, we will {action} {product}.
If you {action} the {noun} {time}, the {job} will be {feeling}.
{word}, {word}, {word}, and {word}.
{word} {word}. {word} {word}. {word}!
The code is {letter}, {letter}, {number}, {letter}.
Our {job} {verb} {place} {adverb}, and so did {name}.
Both {plural} and {plural} need {mass} {time}.
How do you {action} a {adjective} {noun} from {place}?
{opener} I have to {action} {product} before {name} can {action} the {plural}.
She said {opener} and then she {verb} a {adjective} {noun}.
It was {feeling} people like {name} who {verb} the first {noun}.
Let me {action} that for you. One moment. The {noun} is in {place}.
There are {number} ways to {action} {mass}.
Never {action} the {noun} while {name} is {feeling}.
{name} moved from {place} to {place} {time}.
Is it {adjective}, or is it {adjective}?
Welcome to our update on {topic}. {product} got {adverb} better.
{product} helps every {job} to {action} {plural} and {plural}.
The {adjective} {job} and the {adjective} {job} {verb} each other.
You should see how {adverb} the {plural} {verb} the {noun}!
Five brave {plural} bought {number} big {plural} from Bob.
Few of those very {adjective} {plural} ever moved above the {noun}.
Thousands of {plural} gathered at {place} to hear {name} speak about {topic}.
Oh no, who {verb} my {noun}?
In {place}, {mass} costs {number} pounds and {number} pence.
{name} is {feeling}. {name} is {feeling}, too. Are you {feeling}?
After {number} months, {product} finally works in {place}.
I think that {mass} with {mass} would be {adjective}.
We {action}, we {action}, and we {action} {adverb}.
Just {action} it. Then {action} it again, {adverb}.
Chapter {number}: the {adjective} {noun} and the {job}.
Would you rather {action} {number} {plural} or one {adjective} {noun}?""".splitlines()

EVAL_TEMPLATES = """Before we move forward, {name} would like to {action} the {noun} of {place}.
You would be amazed how far a {adjective} {noun} can travel {time}.
Maybe {number} of us should have asked the {job} about {topic} first.
Choose the {noun} you like, then {action} the big blue button.
It is {adjective} to {action} {mass}, said the {job}, and left {place} {adverb}.
Thank you for calling. {product} opens again {time}.
Nobody in {place} ever {verb} so many {plural} {adverb}.
Do {plural} really {action} {mass}? {opener} they do.
The weather over {place} is {adjective}, and {time} it will improve.
I wish my {noun} were as {adjective} as the {noun} of {name}.
{number} out of {number} {plural} voted for {topic}.
Here is the news {time}: the {job} from {place} {verb} {number} {plural}.""".splitlines()


def fill(template: str, rng: np.random.Generator) -> str:
    """Replace every slot of a template by a random word of its list; the first letter becomes a capital."""
    out = []
    for literal, slot, _, _ in string.Formatter().parse(template):
        out.append(literal)
        if slot:
            choices = WORDS[slot]
            out.append(choices[int(rng.integers(len(choices)))])
    text = "".join(out)
    text = text.replace(",,", ",").replace(", and then she", " and then she")
    return text[0].upper() + text[1:]


def sentences(split: str, seed: int) -> Iterator[str]:
    """Yield sentences of a split without end and without repeats.

    Args:
        split: "train" or "eval"; the two share words but no templates.
        seed: the order and the words depend on it only.
    """
    templates = {"train": TRAIN_TEMPLATES, "eval": EVAL_TEMPLATES}[split]
    rng = np.random.default_rng([seed, split == "eval"])
    seen: set[str] = set()
    while True:
        # Whole rounds over the templates: every structure comes up equally often.
        for i in rng.permutation(len(templates)):
            text = fill(templates[i], rng)
            if text not in seen:
                seen.add(text)
                yield text
