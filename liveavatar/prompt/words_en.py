"""English lexicon of each facet of a video prompt. Data only; `check` counts.

Entries are base forms; `prompt.py` also accepts their plurals, verb forms and adverbs. An entry of several words is
found as a phrase. *Generic* entries say little (any video of this kind would have them) and count half.
"""

FACETS = ("person", "action", "lighting", "style", "camera", "setting", "mood")


def entries(text: str) -> frozenset[str]:
    """Split a list written with bars between its entries."""
    return frozenset(" ".join(entry.split()) for entry in text.replace("\n", " ").split("|") if entry.strip())


SPECIFIC = {
    "person": entries(
        "girl|boy|lady|gentleman|child|kid|teenager|toddler|baby|adult|elder|senior|grandmother|grandfather|grandma|"
        "grandpa|mother|father|young|youthful|old|elderly|middle aged|aged|twenty|thirty|forty|fifty|sixty|seventy|"
        "twenties|thirties|forties|fifties|sixties|year old|asian|african|european|latina|latino|caucasian|arab|indian|"
        "chinese|japanese|korean|nordic|mediterranean|dwarf|elf|robot|android|cyclops|knight|wizard|witch|alien|"
        "mascot|cat|dog|bear|fox|hair|haired|blond|blonde|brunette|redhead|ginger|bald|curly|wavy|straight hair|braid|"
        "braided|ponytail|bun|bob|fringe|bangs|afro|dreadlock|silver hair|grey hair|gray hair|beard|bearded|moustache|"
        "mustache|stubble|eyebrow|eyelash|freckle|freckled|wrinkle|dimple|scar|tattoo|skin|complexion|cheekbone|jawline|"
        "eye|eyed|lip|lipstick|makeup|face|glasses|spectacles|sunglasses|earring|necklace|bracelet|ring|watch|hat|cap|"
        "helmet|crown|scarf|hijab|turban|headband|headphone|suit|blazer|jacket|coat|cardigan|sweater|jumper|hoodie|"
        "shirt|t shirt|blouse|dress|gown|skirt|jean|trouser|apron|uniform|robe|kimono|qipao|hanfu|sari|vest|waistcoat|"
        "tie|bow tie|turtleneck|armor|armour|leather|denim|silk|linen|wool|velvet|slim|muscular|stocky|petite|tall|"
        "broad shouldered|handsome|beautiful|pretty|actor|actress|anchor|news anchor|newsreader|presenter|host|hostess|"
        "teacher|professor|doctor|nurse|surgeon|scientist|engineer|lawyer|chef|cook|blacksmith|farmer|soldier|officer|"
        "pilot|athlete|singer|musician|dancer|artist|painter|writer|journalist|blogger|vlogger|streamer|influencer|"
        "businessman|businesswoman|manager|executive|ceo|salesman|saleswoman|shopkeeper|barista|waiter|waitress|"
        "student|worker|king|queen|prince|princess|monk|priest|coach|guide|narrator|storyteller|comedian|model|"
        "wearing|dressed in|clothed in|portrait of"
    ),
    "action": entries(
        "smile|grin|laugh|giggle|chuckle|nod|shake head|shaking her head|shaking his head|tilt head|tilting her head|"
        "tilting his head|blink|wink|frown|raise eyebrow|raised eyebrow|gesture|gesturing|gesticulate|wave|point|"
        "clap|shrug|lean|lean forward|turn|look|look at|gaze|glance|stare|eye contact|explain|present|introduce|"
        "announce|report|read|recite|narrate|describe|tell story|lecture|teach|sing|whisper|shout|argue|debate|"
        "interview|answer|ask|greet|welcome|invite|persuade|pitch|demonstrate|show|hold|lift|pick up|raise|swing|"
        "hammer|forge|cook|pour|drink|eat|write|type|draw|paint|play|dance|walk|stand|sit|kneel|pause|breathe|"
        "breathing|sigh|yawn|cry|weep|think|ponder|listen|hand on|hands on|hand movement|hands moving|folded hands|"
        "crossed arms|arms crossed|open palms|head movement|lip sync|articulate|expressive"
    ),
    "lighting": entries(
        "lighting|lit|backlit|backlight|backlighting|rim light|rim lighting|key light|fill light|softbox|soft light|"
        "soft lighting|hard light|diffuse|diffused|natural light|daylight|sunlight|sunlit|sunny|sunshine|sunrise|"
        "sunset|golden hour|blue hour|dawn|dusk|twilight|moonlight|moonlit|candlelight|candlelit|firelight|fire glow|"
        "lamplight|lamp|lantern|neon|neon light|spotlight|studio light|studio lighting|ring light|fluorescent|"
        "tungsten|overcast|shadow|shadowy|silhouette|chiaroscuro|rembrandt|high key|low key|glow|glowing|radiant|"
        "illuminate|illuminated|illumination|bright|dim|dimly lit|brightly lit|ambient light|warm light|"
        "warm lighting|cool light|cold light|window light|god rays|volumetric|lens flare|reflection|contrast|"
        "high contrast|low contrast|highlight|exposure"
    ),
    "style": entries(
        "realistic|photorealistic|hyperrealistic|photo real|cinematic|film|film grain|filmic|movie|documentary|"
        "commercial|advertisement|vlog style|news style|broadcast|music video|anime|manga|cartoon|comic|pixar|disney|"
        "3d|3d render|cgi|rendered|unreal engine|octane|claymation|stop motion|clay|low poly|pixel art|voxel|"
        "watercolor|watercolour|oil painting|impressionist|sketch|pencil|ink|ukiyo e|art deco|art nouveau|baroque|"
        "renaissance|minimalist|minimal|retro|vintage|noir|film noir|cyberpunk|steampunk|futuristic|sci fi|fantasy|"
        "gothic|surreal|abstract|pop art|black and white|monochrome|sepia|pastel|vivid color|vivid colour|muted|"
        "color graded|colour graded|color grading|colour grading|saturated|desaturated|4k|8k|hdr|high definition|"
        "ultra detailed|highly detailed|detailed|high quality|professional|editorial|fashion photography|"
        "portrait photography|polaroid|kodak|35mm|imax|digital human|virtual human|digital avatar|stylized|stylised|"
        "illustration|corporate style"
    ),
    "camera": entries(
        "close up|closeup|extreme close up|medium shot|medium close up|mid shot|wide shot|full shot|full body|"
        "long shot|half body|half length|head and shoulders|headshot|bust shot|waist up|chest up|portrait shot|"
        "establishing shot|two shot|over the shoulder|pov|point of view|eye level|low angle|high angle|bird's eye|"
        "overhead|front view|frontal|side view|profile view|three quarter|static camera|static shot|fixed camera|"
        "locked off|tripod|handheld|steadicam|gimbal|dolly|tracking shot|pan|tilt up|tilt down|zoom|push in|pull back|"
        "slow zoom|crane shot|drone shot|orbit|rack focus|shallow depth of field|depth of field|bokeh|"
        "blurred background|"
        "background blur|sharp focus|in focus|out of focus|soft focus|wide angle|telephoto|50mm|85mm|35mm lens|"
        "macro|lens|framing|framed|centered|centred|composition|rule of thirds|symmetrical|facing the camera|"
        "looking at the camera|looking into the camera|to camera|slow motion|aspect ratio|vertical video"
    ),
    "setting": entries(
        "background|backdrop|room|living room|bedroom|kitchen|bathroom|office|meeting room|boardroom|classroom|"
        "lecture hall|library|laboratory|lab|hospital|clinic|studio|news studio|recording studio|podcast studio|stage|"
        "theatre|theater|concert hall|museum|gallery|church|temple|palace|castle|cave|dungeon|forge|workshop|smithy|"
        "factory|warehouse|garage|shop|store|market|mall|cafe|coffee shop|restaurant|bar|pub|hotel|lobby|airport|"
        "station|train|car|bus|plane|ship|boat|spaceship|street|alley|city|cityscape|skyline|downtown|village|town|"
        "countryside|farm|field|meadow|garden|park|forest|wood|jungle|mountain|hill|valley|desert|beach|seaside|ocean|"
        "sea|lake|river|waterfall|island|sky|cloud|snow|rain|fog|mist|bridge|rooftop|balcony|terrace|courtyard|window|"
        "bookshelf|sofa|couch|desk|table|fireplace|curtain|wall|brick wall|green screen|white background|"
        "plain background|grey background|gray background|outdoor|outdoors|indoor|indoors|interior|exterior|nature|"
        "volcano|battlefield|stadium|gym|classical architecture|furnace|anvil"
    ),
    "mood": entries(
        "happy|happily|joyful|joyfully|cheerful|cheerfully|excited|excitedly|enthusiastic|enthusiastically|energetic|"
        "lively|playful|amused|delighted|proud|proudly|confident|confidently|calm|calmly|serene|peaceful|relaxed|"
        "gentle|gently|tender|kind|friendly|warmly|warm smile|welcoming|sincere|sincerely|honest|serious|seriously|"
        "solemn|stern|formal|authoritative|thoughtful|pensive|contemplative|curious|surprised|astonished|amazed|"
        "worried|anxious|nervous|afraid|fearful|scared|sad|sadly|melancholic|melancholy|nostalgic|lonely|tearful|"
        "angry|angrily|furious|annoyed|irritated|disgusted|bored|tired|sleepy|mysterious|dramatic|dramatically|tense|"
        "epic|heroic|romantic|dreamy|whimsical|humorous|funny|ironic|sarcastic|passionate|passionately|intense|"
        "emotional|heartfelt|inspiring|hopeful|optimistic|grateful|elegant|elegance|gracefully|cozy|cosy|eerie|gloomy|"
        "atmosphere|mood|tone|expression|softly|eagerly"
    ),
}

GENERIC = {
    "person": entries(
        "person|people|someone|somebody|human|human being|man|woman|male|female|guy|character|figure|avatar|speaker|"
        "adult|individual|he|she|red|blue|green|yellow|white|black|brown|pink|purple|orange|golden|silver|grey|gray|"
        "dark|light brown|nice looking|good looking"
    ),
    "action": entries("talk|speak|say|move|do|chat|discuss|speech|conversation"),
    "lighting": entries("light|dark lighting|good lighting|nice light"),
    "style": entries("style|video|photo|picture|good quality|nice|good|beautiful video"),
    "camera": entries("camera|shot|view|angle|facing"),
    "setting": entries("place|scene|somewhere|inside|outside|location|environment"),
    "mood": entries("emotion|feeling|nice mood|normal"),
}

# What to say about a facet that is missing: (what to add, an example to copy)
HINTS = {
    "person": (
        "say who it is: age, hair, clothes",
        "a woman in her thirties with short dark hair and a navy blazer",
    ),
    "action": ("say what the person does besides talking", "explains calmly, nods and gestures with open palms"),
    "lighting": ("say where the light comes from", "soft window light from the left, warm highlights"),
    "style": ("name a style", "photorealistic, cinematic colour grading"),
    "camera": ("say how it is framed", "head-and-shoulders close-up, eye level, shallow depth of field"),
    "setting": ("say where it takes place", "in a quiet study with a bookshelf behind"),
    "mood": ("name a mood or expression", "friendly and confident"),
}
