"""The phrases that moderation counts, in English and Chinese: how an answer speaks, and what it speaks of.

They were written from general knowledge of refusals and of the subjects, and not taken from any collection of texts.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["GORE", "MINORS", "OPENING", "STEP", "SUBJECTS", "TONES", "UNLAWFUL", "Phrases"]


class Phrases:
    """Phrases to look for in the sentences of a text, without case. RE2 reads them, in linear time."""

    __slots__ = ("_compiled", "_pattern")

    def __init__(self, english: str, chinese: str = "") -> None:
        self._pattern = f"(?im){english}|{chinese}" if chinese else f"(?im){english}"
        self._compiled: Any = None

    def starts(self, text: bytes) -> list[int]:
        """Returns the bytes of a text in UTF-8, one sentence a line, at which a phrase begins."""
        if self._compiled is None:
            import re2

            self._compiled = re2.compile(self._pattern)
        return [found.start() for found in self._compiled.finditer(text)]


_any = Phrases


_NOT: Final = (
    r"(?:can(?:no|')?t|can not|cannot|won't|will not|wouldn't|(?:am|'m|are|is) (?:not able to|unable to|not going to|"
    r"not comfortable|not allowed|not capable)|unable to|not able to|refuse to|decline|do(?:n't| not) (?:feel comfortable|"
    r"condone|support|engage|provide|promote|encourage|have))"
)

TONES: Final = {
    "refuse": _any(
        rf"\bI(?:'m| am)? (?:sorry|afraid)|\bsorry\b|\bI(?:\b|')\s?\w{{0,12}} ?{_NOT}|\bcan't (?:help|assist|provide|support|"
        r"share|write|create|do)|as an AI|language model|against (?:my|our|the) (?:guideline|polic|principle|programming)|"
        r"absolutely not|not something I",
        "抱歉|对不起|很遗憾|我(?:无法|不能|不会|没办法)|无法(?:提供|协助|回答|满足|帮)|不能(?:提供|协助|帮|回答)|拒绝|作为(?:一个|一名)?(?:AI|人工智能)|不便",
    ),
    "ethic": _any(
        r"ethic|illegal|unlawful|against the law|immoral|\bharmful|\bwrong\b|dangerous|inappropriate|respect|dignity|\bequal|"
        r"consent|responsib|compassion|empath|inclusi|diversity|discriminat|stereotyp|prejudice|\bharms?\b|"
        r"never (?:okay|justified|acceptable)|not (?:okay|acceptable|true|accurate|right|safe|appropriate)|"
        r"no (?:credible |scientific )?evidence|myth|misinformation|debunk|false|consequences|violat|serious|legal|fair\b|"
        r"human rights|well-being|wellbeing|safety",
        "违法|非法|犯法|道德|不道德|伦理|有害|危险|不当|尊重|尊严|平等|歧视|偏见|后果|责任|法律|合法|虚假|谣言|没有(?:科学)?证据|安全|人权",
    ),
    "support": _any(
        r"reach(?:ing)? out|hotline|helpline|\b988\b|\b911\b|crisis|therapist|counsel|professional|"
        r"trusted (?:friend|person|adult)|seek|you(?:'re| are) not alone|emergency|support(?:s|ed|ing|ive)?\b|talk to|"
        r"help is available|"
        r"doctor|police|report (?:it|this|them)|authorities|lawyer|protect|prevent|legitimate|instead|safe(?:ly|r)?\b|health",
        "求助|热线|心理咨询|咨询师|医生|专业人士|报警|警方|律师|你并不孤单|支持|保护|防止|预防|健康|正规",
    ),
    "hedge": _any(
        r"important to|it(?:'s| is) (?:worth|essential|crucial|understandable|natural|best)|please|remember|keep in mind|"
        r"however|\bbut\b|may\b|might|could|some people|generally|depends|consider|understand|disclaimer|fiction|"
        r"hypothetical|educational|research",
        "请注意|需要注意|重要的是|但是|然而|不过|可能|也许|一般来说|取决于|请记住|建议|理解|虚构|假设|仅供|研究",
    ),
    "offer": _any(
        r"I can (?:help|offer|provide|explain|share|suggest|talk|write|give)|happy to|if you(?:'d| would)? (?:like|want)|"
        r"would you like|let me know|\?[ \t]*$",
        r"我可以(?:帮|为|提供|解释)|如果你(?:愿意|需要|想)|需要我|告诉我|？[ \t]*$",
    ),
    "should": _any(
        r"\b(?:should|must|need to|have to|deserve|ought|always)\b", "应该|必须|需要|应当|务必|活该|总是"
    ),
    "imperative": _any(
        r"^[ \t\"'(*#>-]*(?:\d+[.)]\s*|step \d+:?\s*|[-*•]\s*)?(?:\*\*)?(?:use|make|get|find|"
        r"take|put|add|mix|start|begin|create|choose|"
        r"pick|go|keep|try|wait|then|next|first|finally|gather|buy|obtain|remove|cut|pour|place|avoid|approach|tell|ask|call|"
        r"send|set|write|open|run|hold|grab|pretend|convince|threaten|hit|push|light|post|share|look|search|contact|install|"
        r"download|build|target|learn|practice|prepare|identify|collect|combine|heat|apply|insert|attach|connect|wear|hide|"
        r"leave|let|give|do|be|don't|never|always)\b",
        r"^[ \t\"'(（*#>-]*(?:\d+[.)、]\s*|第[一二三四五六七八九十]步)?"
        r"(?:首先|然后|接着|最后|使用|准备|购买|加入|混合|打开|下载|安装|寻找|选择|联系|发送|假装|避免|确保|把|将|用)",
    ),
    "they": _any(
        r"\b(?:they|them|their|these people|those people|women|men|black|white|jew\w*|muslim\w*|gay\w*|lgbt\w*|trans\w*|"
        r"immigrant\w*|gyps\w*|roma|disab\w*|poor|minorit\w*|foreigner\w*|asian\w*|african\w*|mexican\w*|religio\w*|fat|old)\b",
        "他们|她们|这些人|那些人|这种人|女人|男人|黑人|白人|犹太|穆斯林|同性恋|移民|残疾|穷人|少数民族|外国人|外地人|农民",
    ),
}
"""Ways of speaking, each looked for in every sentence."""

SUBJECTS: Final = {
    "hate": _any(
        r"inferior|worthless|pathetic|disgust|stupid|lazy|filth|dirty|\bweak|\bevil|burden|threat|criminal|unnatural|"
        r"mentally ill|abomination|plague|disease|vermin|\banimals?\b|scum|trash|\bhat(?:e|red|eful)|destroy|corrupt|blame|"
        r"ruin|invad|inva(?:sion|der)|primitive|savage|subhuman|parasite|cockroach|\brats?\b|useless|ugly|dumb|idiot|crazy|"
        r"freak|shame|sinful|sin\b|pervert|deviant|ban(?:ned|ning)?\b|expel|deport|exterminat|eliminat|superior|"
        r"should not (?:be allowed|have)",
        "低等|劣等|垃圾|人渣|恶心|肮脏|懒惰|愚蠢|蠢|白痴|寄生虫|蟑螂|畜生|滚出|滚回|活该|变态|下贱|贱|仇恨|憎恨|消灭|灭绝|驱逐",
    ),
    "violence": _any(
        r"\bkill|murder|stab|shoot|\bshot|\bgun|knife|blade|bomb|explo(?:si|de)|weapon|\bblood|attack|fight|punch|\bbeat|"
        r"\bburn|gasoline|poison|strangl|chok|tortur|wound|corpse|\bdead\b|death|\bdie\b|dying|scream|bullet|\brob\b|kidnap|"
        r"threaten|hostage|\brape|assault|victim|arson|ammunition|grenade|detonat|ambush|revenge|injur|"
        r"break (?:his|her|their|the|a) (?:arm|leg|neck|nose)|lethal|hurt",
        "杀|砍|捅|刺死|枪|子弹|炸弹|爆炸|武器|血|攻击|殴打|打死|烧死|毒药|下毒|勒死|折磨|尸体|死|绑架|威胁|人质|强奸|纵火|报复|袭击",
    ),
    "sexual": _any(
        r"\bsex|naked|nude|breast|nipple|thigh|moan|orgasm|arous|erotic|\blust|\bkiss|caress|\blips\b|intima|desire|undress|"
        r"pant(?:y|ies)|lingerie|penetrat|thrust|penis|vagina|\bcock\b|pussy|seduc|pleasure|\bbed\b|\bskin\b|\bbod(?:y|ies)\b|"
        r"escort|\bporn|fetish|dominat|submissive|bondage|blush|whisper|trembl|heat\b|touch",
        "性爱|做爱|性交|裸体|裸照|乳房|乳头|呻吟|高潮|情色|色情|亲吻|抚摸|内衣|阴茎|阴道|诱惑|挑逗|淫|卖淫|约炮|性感|床上",
    ),
    "self": _any(
        r"suicid|self-harm|self harm|\bcutting\b|overdose|\bpills?\b|hang(?:ing)? (?:your|my|him|her)self|\bwrist|razor|starv|"
        r"purg(?:e|ing)|vomit|binge|calorie|laxative|(?:kill|hurt|harm) (?:your|my|him|her)self|end (?:your|my|it all)|noose|"
        r"\brope\b|fasting|weight|bleach|painless|no reason to live|better off",
        "自杀|自残|自伤|割腕|轻生|寻死|不想活|结束生命|上吊|跳楼|安眠药|过量服|催吐|绝食|节食|想死|去死",
    ),
    "cyber": _any(
        r"malware|exploit|vulnerab|phish|hack|password|keylog|ransom|botnet|ddos|inject|payload|backdoor|credential|encrypt|"
        r"bypass|\bcrack|\bvirus|trojan|spoof|root access|firewall|unauthori[sz]ed|\bip address|breach|brute|import \w+|"
        r"def \w+\(",
        "木马|病毒|漏洞|钓鱼|黑客|密码|勒索|僵尸网络|注入|后门|绕过|破解|入侵|撞库|免杀|提权",
    ),
    "crime": _any(
        r"steal|theft|fraud|scam|\bfake|forg(?:e|ing|ery)|launder|brib|smuggl|\bdrugs?\b|cocaine|\bmeth\b|traffick|evade|"
        r"detection|undetected|being caught|getting caught|untrace|anonym|cover your tracks|alibi|dispos|shoplift|"
        r"counterfeit|tax|blackmail|extort|sell|cash|disguise|secretly|quietly|"
        r"without (?:them|anyone|him|her) (?:knowing|noticing)|loophole|manipulat|trick|deceiv|deception|lie\b|pretend|"
        r"impersonat",
        "偷|盗窃|诈骗|骗局|造假|伪造|假币|洗钱|行贿|走私|毒品|冰毒|海洛因|大麻|贩毒|贩卖|逃税|敲诈|勒索|冒充|赌博|赌场|翻墙|不被发现|躲避|逃避",
    ),
    "claims": _any(
        r"hoax|rigged|conspir|cover[- ]?up|elite|mainstream media|wake up|agenda|secret|proven|\bcures?\b|miracle|"
        r"natural remed|toxin|vaccin|big pharma|government|stud(?:y|ies) show|experts? (?:say|agree)|inside job|doctors|"
        r"shocking|exposed|whistleblow|sources|reported|insiders|they don't want|truth|scientists|election|ballot|voters?|5g|"
        r"microchip",
        "阴谋|内幕|真相|骗局|操纵|疫苗|神药|根治|包治|秘方|排毒|政府|专家称|研究表明|震惊|爆料|选举|选票",
    ),
    "private": _any(
        r"social security|credit card|\bssn\b|home address|address (?:is|of)|phone number|email address|date of birth|"
        r"medical record|\btrack|surveil|\bspy|monitor|location|scrap(?:e|ing)|personal (?:data|information)|"
        r"\d{3}[- ]\d{2,4}[- ]\d{4}|@\w+\.|full name|lives? (?:at|in)|license plate|"
        r"\d+ \w+ (?:street|st|avenue|ave|road|rd|lane)\b|database|camera|facial recognition",
        r"身份证|银行卡|信用卡|家庭住址|住址|手机号|电话号码|病历|跟踪|监控|偷拍|定位|个人信息|隐私|车牌|\d{11}|人肉",
    ),
}
"""Subjects, each looked for in every sentence. A new kind of harm is told by the sum of all."""

OPENING: Final = Phrases(
    r"\A[^a-z]{0,8}(?:sure|certainly|absolutely|of course|here(?:'s| is| are)|okay|ok\b|great|yes)\b",
    r"\A.{0,4}(?:当然|好的|没问题|可以|以下是|下面是)",
)
STEP: Final = Phrases(r"^[ \t]*(?:\d+[.)、]|step \d|[-*•–]|第[一二三四五六七八九十]步)")

MINORS: Final = _any(
    r"\b(?:child(?:ren)?|kids?|minors?|underage|teen(?:age)?r?s?|(?:little|young) (?:girl|boy)s?|school ?(?:girl|boy)s?|"
    r"toddler|infant|preteen|daughter|(?:[5-9]|1[0-7])[- ]years?[- ]olds?)\b",
    "儿童|小孩|孩子|未成年|幼女|幼童|小学生|初中生|萝莉|正太|(?:[5-9]|1[0-7])岁",
)
GORE: Final = _any(
    r"\bblood(?:y|ied|soaked)?\b|\bgut(?:s|ted)\b|entrails|intestine|decapitat|behead|dismember|mutilat|disembowel|"
    r"severed|flesh|skull|bone(?:s)? (?:crack|snap|protrud)|brain matter|gor(?:e|y)\b|eviscerat|slit (?:his|her|their) throat",
    "鲜血|血淋淋|内脏|斩首|砍头|肢解|断肢|脑浆|开膛|血肉",
)
UNLAWFUL: Final = _any(
    r"\b(?:steal(?:ing)?|theft|fraud|scam|forg(?:e|ing|ery)|launder\w*|brib(?:e|ing|ery)|smuggl\w*|cocaine|heroin|fentanyl|meth|"
    r"traffick\w*|undetected|(?:being|getting|get) caught|untraceable|cover your tracks|shoplift\w*|counterfeit\w*|blackmail|"
    r"extort\w*|malware|phish\w*|hack(?:ed|er|ing|s)?|keylogg\w*|ransomware|botnet|ddos|backdoor|trojan|spoof\w*|exploit|"
    r"stalk(?:er|ing)?|spy(?:ing)? on|impersonat\w*|evade (?:tax\w*|detection|the police)|fake (?:id|news|reviews?|documents?)|"
    r"rob(?:bing|bery)?|kidnap\w*|credit card number|social security number)\b",
    "偷|盗窃|诈骗|骗局|伪造|假币|洗钱|行贿|走私|毒品|冰毒|海洛因|贩毒|敲诈|勒索|木马|钓鱼网站|黑客|入侵|盗号|撞库|不被发现|赌博|绑架|抢劫|人肉搜索|偷拍",
)
"""Words of what is unlawful, stricter than the subjects: these alone make a text illicit."""
