"""English lexicon of each facet of a video prompt. Data only; `check` counts.

Entries are base forms; `english` also accepts their plurals, verb forms and adverbs. An entry of several words is
found as a phrase. *Generic* entries say little (any video of this kind would have them) and count half.
"""

from liveavatar.prompt.lexicon import entries
from liveavatar.prompt.people_en import PERSONS

SPECIFIC = {
    "person": PERSONS,
    "action": entries(
        "smile|grin|laugh|giggle|chuckle|nod|shake head|shaking her head|shaking his head|tilt head|tilting her head|"
        "tilting his head|blink|wink|frown|raise eyebrow|raised eyebrow|gesture|gesturing|gesticulate|wave|point|"
        "clap|shrug|lean|lean forward|turn|look|look at|gaze|glance|stare|eye contact|explain|present|introduce|"
        "announce|report|read|recite|narrate|describe|tell story|lecture|teach|sing|whisper|shout|argue|debate|"
        "interview|answer|ask|greet|welcome|invite|persuade|pitch|demonstrate|show|hold|lift|pick up|raise|swing|"
        "hammer|cook|pour|drink|eat|write|type|draw|paint|play|dance|walk|stand|sit|kneel|pause|breathe|"
        "breathing|sigh|yawn|cry|weep|think|ponder|listen|hand on|hands on|hand movement|hands moving|folded hands|"
        "crossed arms|arms crossed|open palms|head movement|lip sync|articulate|expressive|"
        "interact|interacting|beckon|curtsy|bow|salute|applaud|cheer|chuckle|smirk|sneer|scowl|glare|squint|peer|"
        "gape|gasp|pout|roll eyes|sniff|sneeze|cough|gulp|swallow|chew|bite|lick|kiss|hug|embrace|shake hand|"
        "wave hand|fold|clasp|clench|snap|tap|drum|knock|scratch|rub|stroke|pat|pet|comb|brush|wipe|wipe tear|"
        "wash|polish|peel|chop|stir|taste|sip|knead|bake|sew|knit|weave|carve|sculpt|build|repair|fix|measure|"
        "weigh|dig|plant|prune|water|harvest|pick|carry|drag|pull|push|throw|catch|kick|jab|punch|dodge|duck|"
        "dive|leap|jump|hop|skip|run|jog|sprint|crawl|crouch|squat|climb|swim|surf|ride|drive|row|steer|march|"
        "stroll|stride|pace|wander|rock|sway|swing|spin|twirl|stretch|bend|slump|recline|rest|doze|sleep|wake|"
        "meditate|pray|chant|hum|whistle|strum|rehearse|perform|act|juggle|conduct|brandish|wield|aim|shoot|fire|"
        "draw sword|bow head|rebut|object|protest|plead|beg|apologise|apologize|thank|praise|scold|warn|comfort|"
        "console|encourage|congratulate|toast|celebrate|mourn|sob|wail|scream|yell|roar|growl|howl|bark|meow|"
        "purr|hiss|mumble|murmur|mutter|stutter|lecture|preach|teach|instruct|comment|summarise|summarize|review|"
        "recommend|advise|advertise|sell|bargain|negotiate|vote|photograph|film herself|film himself|scroll|text|"
        "phone|call|browse|study|research|examine|inspect|observe|watch|stare|look around|look up|look down|"
        "look away|turn head|shake|shake fist|shiver|tremble|flinch|blush|beam|grimace|weep|tilt|raise|lower|"
        "close eye|open eye|put finger|touch|adjust|straighten|button|take off|put on|don|remove|unfold|open|"
        "offer|hand over|serve|pour|hold up|lean back|leans|nod along|move hands|wave arms|spread arms|"
        "arms spread|thumbs up|peace sign|prune|rap|lip syncs|gesticulates|smile|grinning|knits"
    ),
    "lighting": entries(
        "lighting|lit|night|at night|backlit|backlight|backlighting|rim light|rim lighting|key light|fill light|"
        "softbox|soft light|soft lighting|hard light|diffuse|diffused|natural light|daylight|sunlight|sunlit|"
        "sunny|sunshine|sunrise|"
        "sunset|golden hour|blue hour|dawn|dusk|twilight|moonlight|moonlit|candlelight|candlelit|firelight|fire glow|"
        "lamplight|lamp|lantern|neon|neon light|spotlight|studio light|studio lighting|ring light|fluorescent|"
        "tungsten|overcast|shadow|shadowy|silhouette|chiaroscuro|rembrandt|high key|low key|glow|glowing|radiant|"
        "illuminate|illuminated|illumination|bright|dim|dimly lit|brightly lit|ambient light|warm light|"
        "warm lighting|cool light|cold light|window light|god rays|volumetric|lens flare|reflection|contrast|"
        "high contrast|low contrast|highlight|exposure|"
        "torchlight|torch|firelit|campfire|bonfire|ember|chandelier|bulb|light bulb|headlight|streetlight|"
        "street lamp|lantern light|sun|harsh sun|noon|midday|midnight sun|moon|starlight|stars|aurora|lightning|"
        "sunbeam|sunray|beam|ray|shaft of light|dappled|morning light|evening light|warm light|harsh light|"
        "even light|flat light|natural lighting|warm glow|cold glow|top light|side light|side lit|top lit|"
        "underlit|uplight|low light|dark|darkness|pitch dark|pitch black|gloom|dusky|dimmed|glare|glint|sparkle|"
        "shimmer|luminous|glowing|overhead light|led light|led panel|laser|strobe|disco light|stage light|"
        "floodlight|blacklight|candle|candles|flame|flickering|overcast sky|cloudy light|diffused light|lamps|"
        "gaslight|lamplit|moonbeam|daybreak|underexposed|overexposed|skylight|"
        "lights on|lit by|hazy"
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
        "illustration|corporate style|"
        "hyperreal|photo realistic|lifelike|true to life|naturalistic|period drama|gritty|grainy|film look|"
        "film style|film stock|vhs|analog|analogue|super 8|comic book|graphic novel|storybook|children's book|"
        "fairy tale|cel shaded|flat design|vector|line art|charcoal|crayon|chalk|gouache|acrylic|fresco|mosaic|"
        "stained glass|woodcut|engraving|etching|papercut|origami|felt|plush|lego|puppetry|ghibli|dreamworks|"
        "video game|game engine|ps2|vivid colors|vivid colours|colorful|colourful|rainbow color|rainbow colour|"
        "rainbow|neon style|vaporwave|synthwave|art house|arthouse|indie film|blockbuster|reportage|newsreel|"
        "press photo|fashion editorial|glamour|lookbook|infomercial|corporate video|training video|"
        "tutorial style|interview style|talk show|podcast style|webcam style|selfie style|home video|"
        "found footage|victorian|medieval|art style|watercolor illustration|digital art|concept art|hand drawn|"
        "drawn|painted|painting|animation|animated|studio photography|photographic|photo quality|"
        "broadcast quality|cinema"
    ),
    "camera": entries(
        "close up|closeup|extreme close up|medium shot|medium close up|mid shot|wide shot|full shot|full body|"
        "long shot|half body|half length|head and shoulders|headshot|bust shot|waist up|chest up|portrait shot|"
        "establishing shot|two shot|over the shoulder|pov|point of view|eye level|low angle|high angle|bird's eye|"
        "overhead|front view|frontal|side view|profile view|three quarter|static camera|static shot|fixed camera|"
        "locked off|tripod|handheld|steadicam|gimbal|dolly|tracking shot|pan|tilt up|tilt down|zoom|"
        "push in|pull back|"
        "slow zoom|crane shot|drone shot|orbit|rack focus|shallow depth of field|depth of field|bokeh|"
        "blurred background|"
        "background blur|sharp focus|in focus|out of focus|soft focus|wide angle|telephoto|50mm|85mm|35mm lens|"
        "macro|lens|framing|framed|centered|centred|composition|rule of thirds|symmetrical|facing the camera|"
        "looking at the camera|looking into the camera|to camera|slow motion|aspect ratio|vertical video|"
        "full length|knee up|three quarter view|three quarter shot|tight shot|tight framing|close shot|"
        "medium wide|wide framing|cowboy shot|american shot|insert shot|single shot|one take|long take|"
        "dutch angle|worm's eye|top down|from above|from below|from the side|from behind|from the front|"
        "straight on|head on|face on|facing camera|looks into the lens|looks at the lens|at the lens|"
        "at the viewer|to the viewer|selfie angle|webcam|webcam view|camera still|still camera|camera orbits|"
        "orbiting|orbits|tracking|camera pans|pans|panning|tilting camera|zooms in|zooms out|zooming|crash zoom|"
        "whip pan|arc shot|moving camera|shaky camera|shaky|steady|locked camera|stationary camera|fixed shot|"
        "fisheye|24mm|35mm|anamorphic|panoramic|macro shot|bust|upper body|half portrait|shoulders up|"
        "shoulder up|headshot|waist up shot|time lapse|timelapse|hyperlapse|vertical|landscape format|landscape video"
    ),
    "setting": entries(
        "background|backdrop|room|living room|bedroom|kitchen|bathroom|office|meeting room|boardroom|classroom|"
        "lecture hall|library|laboratory|lab|hospital|clinic|studio|news studio|recording studio|"
        "podcast studio|stage|"
        "theatre|theater|concert hall|museum|gallery|church|temple|palace|castle|cave|dungeon|forge|workshop|smithy|"
        "factory|warehouse|garage|shop|store|market|mall|cafe|coffee shop|restaurant|bar|pub|hotel|lobby|airport|"
        "station|train|car|bus|plane|ship|boat|spaceship|street|alley|city|cityscape|skyline|downtown|village|town|"
        "countryside|farm|field|meadow|garden|park|forest|wood|jungle|mountain|hill|valley|desert|beach|"
        "seaside|ocean|"
        "sea|lake|river|waterfall|island|sky|cloud|snow|rain|fog|mist|bridge|rooftop|balcony|terrace|"
        "courtyard|window|"
        "bookshelf|sofa|couch|desk|table|fireplace|curtain|wall|brick wall|green screen|white background|"
        "plain background|grey background|gray background|outdoor|outdoors|indoor|indoors|interior|exterior|nature|"
        "volcano|battlefield|stadium|gym|classical architecture|furnace|anvil|"
        "news desk|newsroom|courtroom|corridor|hallway|staircase|stairs|attic|basement|cellar|pantry|nursery|"
        "dining room|waiting room|changing room|locker room|dressing room|control room|operating room|ward|"
        "surgery|pharmacy|bakery|butcher's|salon|barbershop|bookshop|bookstore|supermarket|kiosk|stall|arcade|"
        "casino|nightclub|club|disco|cinema|opera|circus|tent|arena|ring|pitch|court|pool|swimming pool|"
        "playground|schoolyard|campus|university|school|kindergarten|monastery|cathedral|chapel|mosque|synagogue|"
        "shrine|pagoda|cemetery|graveyard|ruin|ruins|fortress|tower|lighthouse|windmill|barn|stable|orchard|"
        "vineyard|wheat field|greenhouse|hillside|cliff|canyon|glacier|iceberg|swamp|marsh|savanna|savannah|"
        "tundra|prairie|coast|shore|harbour|harbor|port|pier|dock|deck|cabin|cockpit|space station|moon surface|"
        "mars|planet|galaxy|underwater|under the sea|under the waves|under water|motorway|highway|road|roadside|"
        "crossroad|square|plaza|boulevard|subway|metro|tunnel|platform|bus stop|tram|taxi|truck|elevator|"
        "lift shaft|balcony|porch|veranda|patio|lawn|backyard|yard|pond|stream|creek|bay|lagoon|hut|cottage|"
        "house|home|villa|mansion|apartment|flat|skyscraper|laboratory|observatory|archive|vault|bank|"
        "post office|townhall|town hall|parliament|embassy|camp|campsite|barracks|trench|prison|cell|jail|bench|"
        "shelf|shelves|whiteboard|blackboard|chalkboard|desk|counter|stove|bed|armchair|rug|plant behind|poster|"
        "banner|sunlit room|dark room|pine tree|tree|flowers|sink|grey wall|white wall|plain grey|plain white|"
        "lane|pavement|sidewalk|doorway|entrance|lounge|reading room|laundromat|quarry|coal mine|oilfield|power plant|"
        "call centre|call center|data centre|data center|zoo|racetrack|diner|mountaintop|"
        "wedding|festival|party|picnic|parade|concert|rally|ceremony|funeral|conference|auction|exhibition|banquet|"
        "funfair|fairground|carnival|feast|gala|trade fair|book fair|birthday party|campfire|"
        "backstage|bakery|treehouse|igloo|oasis|dune|sand|rainforest|bamboo|cherry blossom"
    ),
    "mood": entries(
        "happy|happily|joyful|joyfully|cheerful|cheerfully|excited|excitedly|enthusiastic|enthusiastically|energetic|"
        "lively|playful|amused|delighted|proud|proudly|confident|confidently|calm|calmly|serene|peaceful|relaxed|"
        "gentle|gently|tender|kind|friendly|warmly|warm smile|welcoming|sincere|sincerely|honest|serious|seriously|"
        "solemn|stern|formal|authoritative|thoughtful|pensive|contemplative|curious|surprised|astonished|amazed|"
        "worried|anxious|nervous|afraid|fearful|scared|sad|sadly|melancholic|melancholy|nostalgic|lonely|tearful|"
        "angry|angrily|furious|annoyed|irritated|disgusted|bored|tired|sleepy|mysterious|dramatic|dramatically|tense|"
        "epic|heroic|romantic|dreamy|whimsical|humorous|funny|ironic|sarcastic|passionate|passionately|intense|"
        "emotional|heartfelt|inspiring|hopeful|optimistic|grateful|elegant|elegance|gracefully|cozy|"
        "cosy|eerie|gloomy|"
        "atmosphere|mood|tone|expression|softly|eagerly|"
        "heartily|delight|joy|happiness|sadness|anger|fear|rage|grumpy|moody|weary|exhausted|suspicious|"
        "sceptical|skeptical|sarcastically|sly|smug|shy|bashful|embarrassed|ashamed|guilty|jealous|envious|"
        "disappointed|frustrated|impatient|patient look|stressed|overwhelmed|relieved|satisfied|content|blissful|"
        "ecstatic|euphoric|triumphant|victorious|determined|resolute|brave|bold|fierce|menacing|threatening|"
        "sinister|creepy|spooky|scary|haunting|ominous|tragic|sorrowful|mournful|wistful|sentimental|intimate|"
        "loving|affectionate|caring|compassionate|reassuring|soothing|comforting|trustworthy|professional tone|"
        "businesslike|dignified|noble|regal|majestic|graceful|charming|charismatic|seductive|flirty|mischievous|"
        "cheeky|silly|goofy|comic|awkward|confused|puzzled|perplexed|shocked|startled|horrified|terrified|"
        "desperate|hopeless|bitter|cold stare|indifferent|neutral|neutral expression|stoic|poker faced|apathetic|"
        "melancholy|upbeat|uplifting|festive|lighthearted|light hearted|vibrant|dynamic|casual|laid back|"
        "sombre|somber|tension|confidence|warmth|curiosity|worry|fatigue|thrilled|giddy|frank|candid|humble|modest|devout|"
        "defiant|rebellious|apologetic|regretful|devastated|bewildered|dazed|intrigued|fascinated|focused|concentrated|"
        "poised|hushed|urgent|frantic|paranoid|wary|cautious|gruff|stoical|dour|downcast|tenderness|sympathy|triumph|"
        "bubbly|feisty|zany|quirky|vulnerable|wistfulness|deadpan|bleak|sober|quiet|quietly|"
        "cosy mood|warm and friendly|lovely"
    ),
}

COLOURS = entries(
    "red|blue|green|yellow|white|black|brown|pink|purple|orange|golden|silver|grey|gray|dark|light brown"
)  # of hair, eyes and clothes, but also of things

GENERIC = {
    "person": COLOURS
    | entries(
        "person|people|someone|somebody|human|human being|man|woman|male|female|guy|character|figure|avatar|speaker|"
        "adult|individual|he|she|nice looking|good looking"
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
