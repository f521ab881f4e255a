"""Statements that are of a category by themselves, however short the text: threats, intents, slurs of groups."""

from __future__ import annotations

from typing import Final

from deepwell.safety.moderation.phrases import Phrases

__all__ = ["STATEMENTS"]

_GROUP: Final = (
    r"(?:all |the |those |these )?(?:jews?|muslims?|christians?|blacks?|black people|white people|whites|gays?|lesbians?|"
    r"homosexuals|trans(?: people|genders?)?|immigrants?|refugees|foreigners|gyps(?:y|ies)|roma|women|asians?|arabs?|"
    r"mexicans?|africans?|disabled people|the disabled)"
)
_CHINESE_GROUP: Final = (
    "(?:所有|这些|那些)?(?:犹太人|穆斯林|回民|黑人|白人|同性恋|移民|难民|外国人|外地人|女人|残疾人|少数民族)"
)

STATEMENTS: Final = {
    "harassment": Phrases(
        r"\byou(?:'re| are) (?:a |an |such a |so |all )?(?:\w+ )?(?:idiot|moron|loser|retard|worthless|pathetic|disgusting|"
        r"piece of (?:shit|trash|garbage)|stupid (?:bitch|cow|pig))|\bgo (?:kill yourself|to hell)|"
        r"nobody (?:likes|loves|wants) you",
        "你(?:就是|真是|是)(?:个|一个)?(?:白痴|废物|垃圾|人渣|贱人|畜生|蠢货|傻[逼屄])|去死吧|没人(?:喜欢|爱)你",
    ),
    "harassment/threatening": Phrases(
        r"\b(?:I(?:'ll| will| am going to|'m going to| want to| wanna)|we(?:'ll| will)) (?:kill|murder|shoot|stab|hurt|"
        r"beat|find|hunt|burn|rape|destroy) (?:you|him|her|them|your)\b|you(?:'re| are) (?:dead|going to die)\b",
        "我(?:要|会|想|一定要)(?:杀了|弄死|打死|砍死|捅死|干掉)(?:你|他|她|他们|你们|全家)|你死定了",
    ),
    "hate": Phrases(
        rf"\b{_GROUP} (?:are|is) (?:all |just |nothing but )?(?:\w+ )?(?:inferior|vermin|animals|filth|subhuman|parasites?|"
        r"scum|disgusting|worthless|a plague|a disease|cockroaches|rats|an abomination|mentally ill|criminals)",
        f"{_CHINESE_GROUP}(?:都是|就是|全是)(?:垃圾|人渣|畜生|寄生虫|蟑螂|劣等|病毒|败类)",
    ),
    "hate/threatening": Phrases(
        rf"\b(?:kill|exterminate|eradicate|gas|hang|shoot|burn|get rid of) {_GROUP}\b|"
        rf"\b{_GROUP} (?:should|must|need to|deserve to) (?:all )?(?:die|burn|be (?:killed|exterminated|shot|hanged|gassed))",
        f"(?:杀光|消灭|灭绝|清洗){_CHINESE_GROUP}|{_CHINESE_GROUP}(?:都)?(?:该死|应该(?:被)?(?:杀|消灭|灭绝))",
    ),
    "self-harm/intent": Phrases(
        r"\bI (?:want|wanna|plan|am going|'m going|have decided|need) (?:to )?(?:die|kill myself|end my life|end it all|hurt "
        r"myself|cut myself)|\bI(?:'m| am) (?:going to kill myself|suicidal)|\bI (?:don't|do not) want to (?:live|be alive)",
        "我(?:不想活|想死|要自杀|想自杀|打算自杀|想结束(?:自己的)?生命|要结束(?:自己的)?生命|想割腕)|活着没(?:有)?意思",
    ),
    "self-harm/instructions": Phrases(
        r"\b(?:how (?:to|do I|can I|should I)|(?:best|easiest|fastest|most painless) way to) (?:\w+ )?(?:kill myself|commit "
        r"suicide|hang myself|overdose|cut myself|end my life|hide (?:my )?(?:cuts|self-harm))",
        "(?:怎么|如何|怎样)(?:才能)?(?:无痛)?(?:自杀|自残|割腕|上吊|结束(?:自己的)?生命)",
    ),
    "illicit": Phrases(
        r"\bhow (?:to|do I|can I|do you) (?:\w+ ){0,2}(?:steal|shoplift|launder|counterfeit|forge|hack into|ddos|smuggle|"
        r"cook meth|make meth|synthesi[sz]e (?:meth|heroin|cocaine|fentanyl)|buy (?:drugs|cocaine|heroin)|scam|phish|"
        r"pick a lock and|commit (?:\w+ )?fraud|evade tax)",
        "(?:怎么|如何|怎样)(?:才能)?(?:偷|洗钱|伪造|造假币|走私|制(?:造|作)?(?:冰毒|毒品|海洛因)|买毒品|诈骗|入侵|盗号|逃税)",
    ),
    "illicit/violent": Phrases(
        r"\bhow (?:to|do I|can I|do you) (?:\w+ ){0,2}(?:make|build|construct|assemble) (?:\w+ ){0,3}(?:bomb|explosive|grenade|"
        r"pipe bomb|nerve agent|silencer|ghost gun|poison gas)|\bhow (?:to|do I|can I) (?:\w+ ){0,2}(?:murder|assassinate|"
        r"poison|kidnap) (?:a |an |my |someone|some|the )",
        "(?:怎么|如何|怎样)(?:才能)?(?:自制|制造|制作|做)(?:一?[个枚颗])?(?:土)?(?:炸弹|炸药|爆炸物|手雷|毒气|枪)|(?:怎么|如何|怎样)(?:才能)?(?:杀人|杀死|毒死|绑架)",
    ),
    "sexual/minors": Phrases(
        r"\b(?:sex(?:ual(?:ly)?)?|naked|nude|erotic|porn\w*|molest\w*|rape\w*|arous\w*)\b[^.!?]{0,60}\b(?:child(?:ren)?|minors?|"
        r"underage|preteen|toddler|(?:little|young) (?:girl|boy)|(?:[5-9]|1[0-7])[- ]year[- ]old)\b|"
        r"\b(?:child|minor|underage|preteen|toddler|(?:little|young) (?:girl|boy)|(?:[5-9]|1[0-7])[- ]year[- ]old)\b"
        r"[^.!?]{0,60}\b(?:naked|nude|erotic|porn\w*|molest\w*|undress\w*|aroused?)\b",
        "(?:幼女|未成年|儿童|小学生|萝莉|小女孩|小男孩)[^。！？]{0,20}(?:裸|色情|性行为|做爱|性交|猥亵)|(?:儿童色情|恋童)",
    ),
}
"""For each category, what states it outright."""
