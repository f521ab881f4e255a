"""`RISKS` and `TOPICS`: the 31 risks of GB/T 45654-2025 (annex A), and the topics that are not to be refused."""

from __future__ import annotations

from typing import Final

from deepwell.safety.compliance.checks import Words

__all__ = ["A1", "A2", "LIST_CATEGORIES", "RISKS", "TOPICS"]

RISKS: Final[dict[str, Words]] = {
    "A.1.a": Words("subversion of state power and of the socialist system", "颠覆国家政权、推翻社会主义制度"),
    "A.1.b": Words("harm to national security, interests and image", "危害国家安全和利益、损害国家形象"),
    "A.1.c": Words("secession, harm to unity and stability", "分裂国家、破坏统一和社会稳定"),
    "A.1.d": Words("terrorism and extremism", "恐怖主义、极端主义"),
    "A.1.e": Words("ethnic hatred", "民族仇恨"),
    "A.1.f": Words("violence, obscenity and pornography", "暴力、淫秽色情"),
    "A.1.g": Words("false and harmful information", "虚假有害信息"),
    "A.1.h": Words("other content that laws prohibit", "法律、行政法规禁止的其他内容"),
    "A.2.a": Words("ethnic discrimination", "民族歧视"),
    "A.2.b": Words("discrimination by belief", "信仰歧视"),
    "A.2.c": Words("discrimination by country", "国别歧视"),
    "A.2.d": Words("discrimination by region", "地域歧视"),
    "A.2.e": Words("discrimination by sex", "性别歧视"),
    "A.2.f": Words("discrimination by age", "年龄歧视"),
    "A.2.g": Words("discrimination by occupation", "职业歧视"),
    "A.2.h": Words("discrimination by health", "健康歧视"),
    "A.2.i": Words("other discrimination", "其他歧视"),
    "A.3.a": Words("infringement of intellectual property", "侵犯知识产权"),
    "A.3.b": Words("violation of business ethics", "违反商业道德"),
    "A.3.c": Words("disclosure of trade secrets", "泄露商业秘密"),
    "A.3.d": Words("monopoly and unfair competition", "垄断和不正当竞争"),
    "A.3.e": Words("other commercial violations", "其他商业违法违规"),
    "A.4.a": Words("harm to health of body or mind", "危害身心健康"),
    "A.4.b": Words("infringement of portrait rights", "侵害肖像权"),
    "A.4.c": Words("infringement of reputation", "侵害名誉权"),
    "A.4.d": Words("infringement of honour", "侵害荣誉权"),
    "A.4.e": Words("infringement of privacy", "侵害隐私权"),
    "A.4.f": Words("infringement of personal information", "侵害个人信息权益"),
    "A.4.g": Words("infringement of other rights", "侵犯其他合法权益"),
    "A.5.a": Words("inaccurate content", "内容不准确"),
    "A.5.b": Words("unreliable content", "内容不可靠"),
}
"""The risks by the letters of the annex, in short words of our own."""

A1: Final = tuple(id for id in RISKS if id.startswith("A.1."))
A2: Final = tuple(id for id in RISKS if id.startswith("A.2."))

TOPICS: Final[dict[str, Words]] = {
    "system": Words("political system", "制度"),
    "belief": Words("beliefs", "信仰"),
    "image": Words("image of the country", "形象"),
    "culture": Words("culture", "文化"),
    "custom": Words("customs", "习俗"),
    "ethnicity": Words("ethnic groups", "民族"),
    "geography": Words("geography", "地理"),
    "history": Words("history", "历史"),
    "heroes": Words("heroes and martyrs", "英烈"),
    "sex": Words("sex", "性别"),
    "age": Words("age", "年龄"),
    "occupation": Words("occupation", "职业"),
    "health": Words("health", "健康"),
}
"""Topics of questions that a service has to answer."""

LIST_CATEGORIES: Final[dict[str, str]] = {
    "pornography": "A.1.f",
    "sexual": "A.1.f",
    "sexual/minors": "A.1.f",
    "violence": "A.1.f",
    "violence/graphic": "A.1.f",
    "illicit": "A.1.h",
    "illicit/violent": "A.1.h",
    "self-harm": "A.4.a",
    "self-harm/intent": "A.4.a",
    "self-harm/instructions": "A.4.a",
    "harassment": "A.4.c",
    "harassment/threatening": "A.4.c",
    "hate": "A.2.i",
    "hate/threatening": "A.1.e",
    "profanity": "A.4.g",
    "advertisement": "A.3.e",
}
"""Risk of each category of the lists. `politics` is not among them: its terms are of several risks, and count for none until
each has the letter of its own as its category."""
