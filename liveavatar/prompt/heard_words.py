"""Phrases of the corpus that taught the embedded model, and the entries of the lexicons that mean them. Data only.

A *slot* is one part of a caption; of its phrases the model hears one. The phrases are those of
`training/corpus/captions.py` and `training/corpus/render/look.py`.
"""

from liveavatar.prompt.lexicon import entries

COLOURS = {
    "white": "white|白|白色",
    "light grey": "light grey|light gray|浅灰|浅灰色",
    "dark grey": "dark grey|dark gray|深灰|深灰色",
    "grey": "grey|gray|灰|灰色", "black": "black|黑|黑色", "beige": "beige|cream|tan|ivory|米色|米白|杏色|卡其",
    "brown": "brown|棕|棕色|褐色|咖啡色", "navy blue": "navy|navy blue|dark blue|深蓝|深蓝色|藏青|藏蓝|海军蓝",
    "sky blue": "sky blue|light blue|pale blue|blue|浅蓝|浅蓝色|天蓝|天蓝色|蓝|蓝色",
    "teal": "teal|turquoise|cyan|青色|青绿|蓝绿",
    "green": "green|emerald|绿|绿色|翠绿",
    "olive": "olive|khaki|橄榄|橄榄绿|军绿",
    "yellow": "yellow|gold|golden|mustard|黄|黄色|金色",
    "orange": "orange|橙|橙色|橘色",
    "red": "red|scarlet|crimson|红|红色|大红",
    "burgundy": "burgundy|wine red|maroon|酒红|酒红色",
    "pink": "pink|rose|粉|粉色|粉红|粉红色", "purple": "purple|violet|lilac|lavender|紫|紫色",
}  # fmt: skip

SLOTS: dict[str, dict[str, frozenset[str]]] = {
    "gender": {
        "woman": entries(
            "woman|girl|lady|female|actress|anchorwoman|businesswoman|grandmother|mother|bride|queen|princess|"
            "waitress|she|schoolgirl|nun|granny|女人|女性|女士|女子|女孩|少女|女生|女主播|姑娘|老奶奶|奶奶|"
            "妈妈|母亲|阿姨|美女|新娘|小女孩|外婆|红发女子|卷发女孩"
        ),
        "man": entries(
            "man|boy|gentleman|male|guy|actor|anchorman|businessman|grandfather|father|groom|king|prince|"
            "waiter|he|schoolboy|monk|beard|bearded|moustache|mustache|男人|男性|男士|男子|男孩|先生|男生|"
            "男主播|小伙子|老爷爷|爷爷|爸爸|父亲|大叔|叔叔|帅哥|新郎|小男孩|外公|红发男子"
        ),
    },
    "age": {
        "young": entries(
            "young|youthful|girl|boy|teenager|teen|child|kid|youth|student|年轻|少女|少年|女孩|男孩|青年|"
            "小女孩|小男孩|孩子"
        ),
        "adult": entries("adult|middle aged|thirties|forties|成年|中年"),
    },
    "hair": {
        "a bald head": entries("bald|光头"),
        "a ponytail": entries("ponytail|马尾"),
        "braided hair": entries("braid|braided|辫子"),
        "an afro": entries("afro|curly|卷发"),
        "a bob haircut": entries("bob"),
        "a buzz cut": entries("buzz cut|寸头|平头"),
        "long hair": entries("long hair|long haired|wavy|长发"),
        "short hair": entries("short hair|short haired|短发"),
    },
    "hair colour": {
        "blond": entries("blond|blonde|blonde haired|金发"),
        "red": entries("redhead|ginger|red haired|红发|红发女子|红发男子|红发女孩"),
        "grey": entries("grey haired|gray haired|silver haired|silver hair|grey hair|gray hair|银发|灰发|白发"),
        "black": entries("black haired|dark haired|黑发"),
        "brown": entries("brunette|brown haired|棕发"),
    },
    "energy": {
        "speaks energetically with lively head movement": entries(
            "energetic|enthusiastic|enthusiastically|lively|passionate|passionately|excited|excitedly|dynamic|"
            "gesture|gesturing|gesticulate|expressive|shout|dance|argue|ecstatic|upbeat|充满活力|热情|活泼|"
            "兴奋|激动|激昂|手势|打手势|活力|跳舞|激情|热烈|兴致勃勃|打着手势|比划"
        ),
        "talks with a still head": entries("still|motionless|静止|一动不动"),
        "talks in a calm manner": entries(
            "calm|calmly|quiet|quietly|softly|whisper|serene|peaceful|平静|冷静|宁静|安静|低声|淡定|沉稳"
        ),
        "speaks with gentle nods": entries("nod|点头|点了点头"),
    },
    "mood": {
        "with a friendly smile": entries(
            "happy|happily|joyful|joyfully|joy|happiness|cheerful|cheerfully|smile|smiling|grin|grinning|"
            "laugh|giggle|chuckle|delighted|delight|amused|friendly|warm smile|beam|playful|glad|ecstatic|"
            "excited|content|welcoming|upbeat|kind|warm and friendly|jubilant|"
            "merry|gleeful|jovial|jolly|elated|thrilled|"
            "excitement|enthusiasm|amusement|gratitude|triumphant|festive|开心|快乐|愉快|高兴|喜悦|微笑|大笑|笑|"
            "欢喜|愉悦|喜庆|慈祥|乐呵呵|笑眯眯|欣慰|得意|"
            "笑着|咧嘴|友好|亲切|欢快|欣喜|兴奋|幸福|甜美|和蔼|温暖|热情"
        ),
        "with a serious expression": entries(
            "serious|seriously|solemn|formal|sad|sadly|sadness|melancholic|melancholy|gloomy|worried|anxious|"
            "tired|tearful|lonely|determined|thoughtful|pensive|cry|weep|sob|disappointed|mournful|bored|"
            "weary|sombre|somber|grave|sorrow|grief|sorrowful|wistful|nostalgic|remorseful|nervous|worry|严肃|庄重|悲伤|"
            "伤心|难过|忧郁|忧伤|沮丧|担忧|焦虑|疲惫|孤独|沉思|哭泣|坚定|若有所思|失落|"
            "正式|哀伤|悲壮|忧愁|惆怅|孤单|怀旧|庄严|肃穆|凝重|深沉|紧张"
        ),
        "frowning slightly": entries(
            "angry|angrily|anger|furious|rage|annoyed|irritated|stern|frown|scowl|glare|fierce|grumpy|"
            "disgusted|frustrated|indignant|outraged|hostile|gruff|sullen|defiant|愤怒|生气|暴怒|皱眉|恼怒|严厉|不满|凶狠|暴躁"
        ),
        "looking surprised": entries(
            "surprise|astonishment|bewildered|startled|surprised|astonished|amazed|"
            "shocked|startled|gasp|raised eyebrow|raise eyebrow|afraid|fearful|"
            "scared|terrified|fear|惊讶|吃惊|震惊|惊喜|害怕|恐惧|惊恐|瞪|睁大|挑眉|惊慌"
        ),
        "with a relaxed face": entries(
            "relaxed|tranquil|composed|quiet|mellow|calm|calmly|neutral|neutral expression|"
            "serene|peaceful|平静|放松|冷静|宁静|安详|从容|"
            "悠闲"
        ),
    },
    "light": {
        "neon light in pink and blue": entries(
            "neon|neon light|neon lights|disco light|cyberpunk|laser|blacklight|霓虹|霓虹灯|赛博朋克"
        ),
        "golden hour light": entries(
            "golden hour|sunset|sunrise|dawn|dusk|twilight|evening light|golden light|evening sun|黄金时刻|"
            "日落|夕阳|黄昏|日出|黎明|余晖|霞光|朝阳|晨曦|暮色|金色的光"
        ),
        "strong backlight": entries(
            "backlit|backlight|backlighting|rim light|rim lighting|silhouette|逆光|轮廓光|剪影"
        ),
        "warm indoor light": entries(
            "warm light|warm lighting|warm glow|lamp|lamps|lamplight|candle|candles|candlelight|candlelit|"
            "firelight|campfire|tungsten|lantern|fireplace|torchlight|暖光|暖黄|烛光|火光|炉火|台灯|灯笼|"
            "暖色光|昏黄|篝火"
        ),
        "cool lighting": entries(
            "cool light|cold light|cool lighting|fluorescent|moonlight|moonlit|blue hour|moon|starlight|"
            "led light|overcast|冷光|月光|荧光灯|冷色光|蓝调时刻|阴天|日光灯|星光|冷色灯光"
        ),
        "studio lighting": entries(
            "studio light|studio lighting|softbox|key light|ring light|fill light|even light|flat light|"
            "影棚光|摄影棚灯光|主光|环形灯|灯光|打光|布光"
        ),
        "moody low-key lighting": entries(
            "dark|darkness|dim|dimly lit|dimmed|low key|low light|dark room|dark lighting|night|at night|"
            "midnight|shadow|shadowy|chiaroscuro|noir|film noir|gloom|dramatic|hard light|side light|side lit|"
            "spotlight|pitch dark|pitch black|昏暗|黑暗|阴影|低调光|暗调|漆黑|灰暗|夜色|侧光|硬光|聚光灯|明暗|"
            "夜晚|深夜"
        ),
        "soft daylight": entries(
            "daylight|natural light|window light|soft light|soft lighting|sunlight|sunlit|sunny|sunshine|sun|"
            "noon|midday|morning light|diffuse|diffused|bright|brightly lit|high key|日光|自然光|窗光|柔光|"
            "柔和的光|阳光|晨光|晴天|明亮|正午|柔和|阳光明媚|光线"
        ),
    },
    "place": {
        "a bookshelf": entries(
            "bookshelf|bookshelves|library|study|bookshop|bookstore|shelf|shelves|书架|图书馆|书房|书店|"
            "图书馆里"
        ),
        "city lights at night": entries(
            "city|cityscape|skyline|street|downtown|nightclub|club|alley|bokeh|boulevard|rooftop|bar|pub|城市|"
            "街道|街头|天际线|酒吧|小巷|夜市|屋顶|天台"
        ),
        "a green park": entries(
            "park|garden|forest|wood|tree|meadow|field|outdoor|outdoors|nature|beach|seaside|ocean|sea|"
            "mountain|countryside|jungle|hill|valley|lake|river|farm|village|snow|desert|sky|lawn|orchard|"
            "公园|花园|森林|树林|草地|户外|室外|大自然|海滩|海边|大海|山|山顶|乡村|田野|湖|河边|草原|沙滩|"
            "农场|竹林|树下|天空|雪地"
        ),
        "a blurred office": entries(
            "office|meeting room|boardroom|classroom|living room|kitchen|"
            "laboratory|lab|hospital|clinic|newsroom|news studio|cafe|coffee shop|restaurant|desk|shop|hotel|"
            "school|university|bedroom|house|home|办公室|会议室|教室|客厅|厨房|实验室|医院|演播室|"
            "咖啡馆|咖啡厅|餐厅|书桌|商店|学校|卧室|家里|家中|演播厅"
        ),
        "a {colour} curtain": entries("curtain|stage|theatre|theater|窗帘|舞台|剧院|幕布"),
        "a mottled {colour} canvas background": entries("canvas|brick wall|cave|stone|砖墙|洞穴|画布"),
        "a plain {colour} background": entries(
            "background|backdrop|wall|plain background|white background|grey background|gray background|"
            "green screen|studio|white wall|grey wall|plain grey|plain white|背景|纯色背景|墙|白墙|绿幕|"
            "灰色背景|白色背景|摄影棚"
        ),
    },
    "style": {
        "photorealistic style": entries(
            "photorealistic|realistic|hyperrealistic|photo real|lifelike|写实|超写实|照片级|真实感|逼真|真实"
        ),
        "3D rendered avatar": entries(
            "3d|3d render|cgi|rendered|animation|pixar|cartoon|digital avatar|unreal engine|三维|渲染|动画|"
            "卡通|皮克斯|虚幻引擎"
        ),
        "realistic digital human": entries("digital human|virtual human|数字人|虚拟人"),
        "high quality render": entries(
            "high quality|4k|8k|hdr|detailed|highly detailed|ultra detailed|高清|超清|高质量|细节丰富"
        ),
        "close-up portrait": entries(
            "close up|closeup|extreme close up|tight shot|headshot|特写|近景|大头照|大特写"
        ),
        "head and shoulders shot": entries("head and shoulders|bust shot|bust|chest up|头肩|胸像|胸部以上"),
        "medium close-up": entries(
            "medium shot|medium close up|mid shot|waist up|half length|中景|中近景|半身|上半身"
        ),
        "static camera": entries(
            "static camera|static shot|fixed camera|tripod|locked off|固定镜头|固定机位|镜头固定"
        ),
        "sharp focus": entries("sharp focus|in focus|清晰对焦"),
        "video call framing": entries("webcam|video call|vlog|vlog style"),
    },
}  # fmt: skip
GARMENTS = {
    "t-shirt": entries("t shirt|tee|hoodie|sweatshirt|jersey|t恤|卫衣|polo"),
    "sweater": entries("sweater|jumper|pullover|cardigan|turtleneck|knitwear|毛衣|开衫"),
    "top": entries("top|blouse|dress|gown|tank top|tunic|robe|kimono|上衣|连衣裙|裙子|长裙|旗袍|汉服|长袍|礼服"),
    "v-neck shirt": entries("v neck"),
    "striped shirt": entries("striped shirt|stripes|条纹衫"),
    "blazer": entries("blazer|suit|tuxedo|西装|西服"),
    "jacket": entries("jacket|coat|waistcoat|vest|raincoat|trench coat|uniform|外套|大衣|风衣|马甲|制服|皮衣|夹克"),
    "shirt": entries("shirt|衬衫|衬衣"),
}
# Words between those of the phrases, and others of the captions.
OTHER_WORDS = entries(
    "a|an|and|the|with|in|of|to|is|over|from|at|before|behind|front|lit|by|wearing|person|woman|lady|female|"
    "presenter|avatar|man|gentleman|male|young|adult|eyes|blue|green|hazel|light|medium|dark|skinned|skin|"
    "speaks|talks|calmly|still|head|speaking|quietly|little|movement|calm|manner|slowly|minimal|camera|"
    "talking|viewer|natural|naturally|looks|into|gentle|nods|energetically|lively|enthusiasm|animated|way|"
    "vividly|moves|lot|expressively|dynamic|gestures|neutral|expression|relaxed|face|smiling|friendly|smile|"
    "cheerful|mood|looking|happy|warm|serious|frowning|slightly|stern|surprised|raised|eyebrows|wide|amazed|"
    "realistic|digital|human|3d|rendered|high|quality|render|close|up|portrait|shoulders|shot|sharp|focus|"
    "static|photorealistic|style|video|call|framing|soft|daylight|window|lighting|even|indoor|cosy|lamp|"
    "tungsten|cool|office|cold|fluorescent|bluish|studio|professional|clean|three|point|softbox|dramatic|side|"
    "hard|moody|low|key|strong|contrast|golden|hour|sunset|evening|sun|sunlight|backlight|bright|rim|contour|"
    "neon|pink|colourful|purple|cyberpunk|glow|plain|background|gradient|mottled|canvas|blurred|modern|city|"
    "lights|night|street|bokeh|bookshelf|wall|books|bookshelves|park|trees|sky|garden|outdoors|outdoor|"
    "curtain|afro|bob|haircut|braided|hair|long|ponytail|short|buzz|cut|bald|black|brown|blond|red|grey|white|"
    "t|top|sweater|v|neck|shirt|striped|blazer|jacket|beige|navy|teal|olive|yellow|orange|burgundy"
)
# Phrases of the corpus in the four slots that change a film; "plain", "gradient", "mottled" and "curtain" have colours.
TAUGHT: dict[str, frozenset[str]] = {
    "energy": entries(
        "speaks calmly|talks with a still head|is speaking quietly|talks in a calm manner|speaks slowly|is talking|"
        "speaks to the camera|talks to the viewer|talks to the camera|is speaking naturally|looks into the camera|"
        "speaks with gentle nods|"
        "speaks energetically|talks with enthusiasm|is speaking in an animated way|talks vividly|speaks expressively"
    ),
    "mood": entries(
        "with a neutral expression|with a relaxed face|with a friendly smile|in a cheerful mood|looking happy|"
        "with a warm smile|with a serious expression|looking serious|frowning slightly|in a stern mood|"
        "looking surprised|with raised eyebrows|with wide eyes, surprised|in an amazed mood|smiling|calm eyes"
    ),
    "light": entries(
        "soft daylight|natural window light|soft natural lighting|even daylight|warm indoor light|warm lighting|"
        "cosy warm lamp light|warm tungsten light|cool office light|cool lighting|cold fluorescent light|"
        "bluish cool light|studio lighting|professional studio light|three-point studio light|"
        "softbox lighting|dramatic side light|hard side lighting|moody low-key lighting|"
        "strong contrast lighting|golden hour light|warm sunset light|"
        "golden evening sun|low golden sunlight|bright rim|rim lighting|strong backlight|bright contour light|"
        "neon light in pink and blue|colourful neon lighting|purple neon light|cyberpunk neon glow"
    ),
    "place": entries(
        "a plain|a gradient background|a mottled|a blurred office|an office in soft focus|"
        "a modern office background|city lights|bokeh lights|a bookshelf|a wall of books|bookshelves|a green park|"
        "trees and sky|a garden outdoors|outdoor park|plain grey studio"
    ),
}
